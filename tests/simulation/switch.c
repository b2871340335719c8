/* SPDX-License-Identifier: MIT */
/*
 * Only the registers that a function call preserves must be saved. swapcontext() would do, but it
 * also sets the signal mask, which is a system call per switch.
 */
#include "switch.h"

#include <stdint.h>

#if SIMULATION_OWN_SWITCH

void sim_stack_switch(void **from, void *to);

#if defined(__x86_64__)

enum { SAVED_WORDS = 6, RETURN_ADDRESS = 6 };

__asm__(".text\n"
	".globl sim_stack_switch\n"
	".type sim_stack_switch, @function\n"
	"sim_stack_switch:\n"
	"	pushq %rbp\n"
	"	pushq %rbx\n"
	"	pushq %r12\n"
	"	pushq %r13\n"
	"	pushq %r14\n"
	"	pushq %r15\n"
	"	movq %rsp, (%rdi)\n"
	"	movq %rsi, %rsp\n"
	"	popq %r15\n"
	"	popq %r14\n"
	"	popq %r13\n"
	"	popq %r12\n"
	"	popq %rbx\n"
	"	popq %rbp\n"
	"	ret\n"
	".size sim_stack_switch, .-sim_stack_switch\n");

/* The stack is as after a call: 8 bytes off a multiple of 16 when entry begins. */
enum { FRAME_WORDS = SAVED_WORDS + 2 };

#else /* __aarch64__ */

enum { RETURN_ADDRESS = 11, FRAME_WORDS = 20 };

__asm__(".text\n"
	".globl sim_stack_switch\n"
	".type sim_stack_switch, %function\n"
	"sim_stack_switch:\n"
	"	sub sp, sp, #160\n"
	"	stp x19, x20, [sp, #0]\n"
	"	stp x21, x22, [sp, #16]\n"
	"	stp x23, x24, [sp, #32]\n"
	"	stp x25, x26, [sp, #48]\n"
	"	stp x27, x28, [sp, #64]\n"
	"	stp x29, x30, [sp, #80]\n"
	"	stp d8, d9, [sp, #96]\n"
	"	stp d10, d11, [sp, #112]\n"
	"	stp d12, d13, [sp, #128]\n"
	"	stp d14, d15, [sp, #144]\n"
	"	mov x9, sp\n"
	"	str x9, [x0]\n"
	"	mov sp, x1\n"
	"	ldp x19, x20, [sp, #0]\n"
	"	ldp x21, x22, [sp, #16]\n"
	"	ldp x23, x24, [sp, #32]\n"
	"	ldp x25, x26, [sp, #48]\n"
	"	ldp x27, x28, [sp, #64]\n"
	"	ldp x29, x30, [sp, #80]\n"
	"	ldp d8, d9, [sp, #96]\n"
	"	ldp d10, d11, [sp, #112]\n"
	"	ldp d12, d13, [sp, #128]\n"
	"	ldp d14, d15, [sp, #144]\n"
	"	add sp, sp, #160\n"
	"	ret\n"
	".size sim_stack_switch, .-sim_stack_switch\n");

#endif

void sim_context_make(struct sim_context *context, void *stack, size_t bytes, void (*entry)(void))
{
	uintptr_t top = ((uintptr_t)stack + bytes) & ~(uintptr_t)15;
	uintptr_t *frame = (uintptr_t *)top - FRAME_WORDS;

	for (int i = 0; i < FRAME_WORDS; i++)
		frame[i] = 0;
	frame[RETURN_ADDRESS] = (uintptr_t)entry;
	context->stack_pointer = frame;
}

void sim_context_switch(struct sim_context *from, struct sim_context *to)
{
	sim_stack_switch(&from->stack_pointer, to->stack_pointer);
}

#else

#include <stdlib.h>

void sim_context_make(struct sim_context *context, void *stack, size_t bytes, void (*entry)(void))
{
	if (getcontext(&context->context))
		abort();
	context->context.uc_stack.ss_sp = stack;
	context->context.uc_stack.ss_size = bytes;
	context->context.uc_link = NULL;
	makecontext(&context->context, entry, 0);
}

void sim_context_switch(struct sim_context *from, struct sim_context *to)
{
	if (swapcontext(&from->context, &to->context))
		abort();
}

#endif
