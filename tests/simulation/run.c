/* SPDX-License-Identifier: MIT */
/* Executes one run, from setup to cleanup. */
#include "run.h"

#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

const char *const failure_names[] = {
	"passed",	  "the copy differs",	"deadlock", "no end", "a vCPU is stuck",
	"a wrong result", "a rule is violated", "memory",   "crash",  "a promise is broken",
};

static sigjmp_buf crashed;

#if !defined(__SANITIZE_ADDRESS__)
static void on_crash(int signal)
{
	sim.failure = SIM_CRASH;
	snprintf(sim.failure_text, sizeof(sim.failure_text), "signal %d in %s", signal,
		 sim.current ? sim.current->name : "the host");
	siglongjmp(crashed, 1);
}
#endif

/* Not under the address sanitizer, which reports more about a crash. */
static void catch_crashes(void)
{
#if !defined(__SANITIZE_ADDRESS__)
	static char stack[64 * 1024];
	static bool done;
	const stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_handler = on_crash, .sa_flags = SA_ONSTACK | SA_NODEFER };

	if (done)
		return;
	done = true;
	sigaltstack(&alternate, NULL);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGFPE, &action, NULL);
	sigaction(SIGABRT, &action, NULL);
#endif
}

static void set_up(void *opaque)
{
	world_setup();
}

static void run_phases(const struct plan *plan)
{
	world_begin(plan);
	sim_spawn("setup", 0, set_up, NULL);
	if (!sim_tasks_run())
		return;
	for (uint32_t i = 0; i < plan->actor_count; i++) {
		const struct actor *actor = &plan->actors[i];

		if (!actor->dropped)
			sim_spawn(actor_names[actor->kind], actor->number, actor_run,
				  (void *)(uintptr_t)actor);
	}
	if (!sim_tasks_run())
		return;
	sim_spawn("finale", 0, oracle_finale, NULL);
	(void)sim_tasks_run();
}

void run_plan(const struct plan *plan, const struct sim_script *script, FILE *trace,
	      struct outcome *outcome)
{
	catch_crashes();
	sim_begin(&plan->policy, script, trace);
	if (!sigsetjmp(crashed, 0))
		run_phases(plan);
	outcome->failure = sim.failure;
	memcpy(outcome->text, sim.failure_text, sizeof(outcome->text));
	world.counts.points = sim.now;
	world.counts.switches = sim.switches;
	outcome->counts = world.counts;
	sim.current = NULL;
	sim_memory_reset();
}
