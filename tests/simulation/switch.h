/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_SWITCH_H
#define SIMULATION_SWITCH_H

/* Creates the stacks of coroutines and switches between them without a system call. */

#include <stddef.h>

#if defined(__x86_64__) || defined(__aarch64__)
#define SIMULATION_OWN_SWITCH 1
#else
#define SIMULATION_OWN_SWITCH 0
#include <ucontext.h>
#endif

struct sim_context {
#if SIMULATION_OWN_SWITCH
	void *stack_pointer;
#else
	ucontext_t context;
#endif
};

/* entry runs when the context is first switched to, and must not return. */
void sim_context_make(struct sim_context *context, void *stack, size_t bytes, void (*entry)(void));
void sim_context_switch(struct sim_context *from, struct sim_context *to);

#endif
