/* SPDX-License-Identifier: MIT */
/* The model's KVM_RESET_DIRTY_RINGS when it ends early: by an injected fault, or by a signal. */
#include <signal.h>
#include <unistd.h>

#include "fixture.h"
#include "internal.h"

static void a_dropped_batch_is_not_protected(void **unused)
{
	const struct model_reset_fault stop = {
		.times = 1, .stop = true, .stop_after_entries = 2, .drop_batch = true
	};
	const struct model_reset_fault at_full_count = { .times = 1, .drop_batch = true };
	struct consumer c;
	struct world w;
	uint64_t page;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	for (page = 0; page < 4; page++)
		assert_int_equal(touch(&w, c.vcpu, page), 0);
	assert_int_equal(consume_all(&c), 4);
	model_reset_fault(w.model, &stop);
	assert_int_equal(reset(&w), 2);
	assert_int_equal(state(&w, 0, 0), 0); /* neither protected nor recorded: lost */
	assert_int_equal(state(&w, 0, 1), 0);
	assert_int_equal(state(&w, 0, 2), MODEL_PAGE_RELEASED);
	assert_int_equal(reset(&w), 2);
	assert_int_equal(state(&w, 0, 2), MODEL_PAGE_PROTECTED);
	assert_int_equal(touch(&w, c.vcpu, 0), 0);
	assert_int_equal(consume_all(&c), 0);

	assert_int_equal(touch(&w, c.vcpu, 8), 0);
	assert_int_equal(touch(&w, c.vcpu, 200), 0);
	assert_int_equal(consume_all(&c), 2);
	model_reset_fault(w.model, &at_full_count);
	assert_int_equal(reset(&w), 2);
	assert_int_equal(state(&w, 0, 8), MODEL_PAGE_PROTECTED);
	assert_int_equal(state(&w, 0, 200), 0);
	world_close_consumer(&w, &c);
}

/* The kernel protects the batch of each ring at its end. */
static void a_reset_that_stops_drops_no_batch_of_an_earlier_ring(void **unused)
{
	const struct model_reset_fault stop = {
		.times = 1, .stop = true, .stop_after_entries = 3, .drop_batch = true
	};
	struct consumer a, b;
	struct world w;

	(void)unused;
	world_open_ring(&w, NULL, false);
	consumer_open(&w, &a);
	consumer_open(&w, &b);
	for (uint64_t page = 0; page < 2; page++) {
		assert_int_equal(touch(&w, a.vcpu, page), 0);
		assert_int_equal(touch(&w, b.vcpu, page + 8), 0);
	}
	assert_int_equal(consume_all(&a), 2);
	assert_int_equal(consume_all(&b), 2);
	model_reset_fault(w.model, &stop);
	assert_int_equal(reset(&w), 3);
	assert_int_equal(state(&w, 0, 0), MODEL_PAGE_PROTECTED);
	assert_int_equal(state(&w, 0, 1), MODEL_PAGE_PROTECTED);
	assert_int_equal(state(&w, 0, 8), 0);
	assert_int_equal(state(&w, 0, 9), MODEL_PAGE_RELEASED);
	consumer_close(&w, &a);
	consumer_close(&w, &b);
	world_close(&w);
}

static void a_short_reset_loses_nothing(void **unused)
{
	const struct model_reset_fault nothing = { .skip = 1, .times = 2, .stop = true };
	struct consumer c;
	struct world w;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	assert_int_equal(consume_all(&c), 1);
	model_reset_fault(w.model, &nothing);
	assert_int_equal(reset(&w), 1);
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	assert_int_equal(consume_all(&c), 1);
	assert_int_equal(reset(&w), 0);
	assert_int_equal(reset(&w), 0);
	assert_int_equal(state(&w, 0, 1), MODEL_PAGE_RELEASED);
	assert_int_equal(reset(&w), 1);
	assert_int_equal(state(&w, 0, 1), MODEL_PAGE_PROTECTED);
	world_close_consumer(&w, &c);
}

static void raise_once(void *opaque, const struct model_event *event)
{
	bool *raised = opaque;

	if (event->point != MODEL_RESET_INVALIDATED || *raised)
		return;
	*raised = true;
	raise(SIGUSR1);
}

static void ignore_signal(int signal)
{
	(void)signal;
}

/* Since 6.17: an unmasked signal cuts RESET short, a masked one does not. */
static void a_signal_shortens_a_reset(void **unused)
{
	const struct model_options options = { .has_signal_short_reset = true };
	struct sigaction action = { .sa_handler = ignore_signal }, before;
	sigset_t usr1, old;
	struct consumer c;
	struct world w;
	bool raised = false;
	uint64_t page;

	(void)unused;
	assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
	world_open_consumer(&w, &options, &c);
	for (page = 0; page < 4; page++)
		assert_int_equal(touch(&w, c.vcpu, page * 100), 0);
	assert_int_equal(consume_all(&c), 4);
	model_hook(w.model, raise_once, &raised);
	assert_int_equal(reset(&w), 1);
	assert_int_equal(state(&w, 0, 0), 0);
	assert_int_equal(reset(&w), 3);

	for (page = 0; page < 4; page++)
		assert_int_equal(touch(&w, c.vcpu, page * 100 + 1), 0);
	assert_int_equal(consume_all(&c), 4);
	raised = false;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	assert_int_equal(w.os->signal_mask(w.os->opaque, SIG_BLOCK, &usr1, &old), 0);
	assert_int_equal(reset(&w), 4);
	assert_true(raised);
	assert_int_equal(w.os->signal_mask(w.os->opaque, SIG_SETMASK, &old, NULL), 0);
	assert_true(model_calls(w.model, MODEL_CALL_SIGMASK) == 2);
	world_close_consumer(&w, &c);
	sigaction(SIGUSR1, &before, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_dropped_batch_is_not_protected),
		cmocka_unit_test(a_reset_that_stops_drops_no_batch_of_an_earlier_ring),
		cmocka_unit_test(a_short_reset_loses_nothing),
		cmocka_unit_test(a_signal_shortens_a_reset),
	};

	return cmocka_run_group_tests_name("model: resets that end early", tests, NULL, NULL);
}
