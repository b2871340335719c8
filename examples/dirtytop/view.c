/* SPDX-License-Identifier: MIT */
#include "view.h"

#include <math.h>
#include <string.h>

#define FADE_S 2.0 /* after which a third is left of the map */

/* A counter that is still 0 has been so since the server began. */
static void rate_begin(struct rate *rate, uint64_t value, uint64_t now_ns)
{
	*rate = (struct rate){ .value = value, .at_ns = value ? now_ns : 0 };
}

static void rate_update(struct rate *rate, uint64_t value, uint64_t now_ns)
{
	if (value < rate->value || now_ns <= rate->at_ns) {
		rate_begin(rate, value, now_ns);
		return;
	}
	if (value == rate->value)
		return;
	rate->step = value - rate->value;
	rate->per_s = (double)rate->step * 1e9 / (double)(now_ns - rate->at_ns);
	rate->value = value;
	rate->at_ns = now_ns;
	rate->known = true;
}

static void for_each_rate(struct view *view, const struct snapshot *s,
			  void (*call)(struct rate *rate, uint64_t value, uint64_t now_ns))
{
	call(&view->new_pages, s->new_pages, s->elapsed_ns);
	call(&view->sent_pages, s->sent_pages, s->elapsed_ns);
	call(&view->wire_bytes, s->wire_bytes, s->elapsed_ns);
	for (uint32_t i = 0; i < s->n_vcpus; i++) {
		call(&view->vcpus[i].entries, s->vcpus[i].entries, s->elapsed_ns);
		call(&view->vcpus[i].new_pages, s->vcpus[i].new_pages, s->elapsed_ns);
	}
}

/* Recent transfers weigh most. The first full copy is left out: it shows no writes of the guest. */
static void update_heat(struct view *view, const struct snapshot *s)
{
	const struct snapshot *before = &view->now;
	bool same = view->has_snapshot && before->n_cells == s->n_cells &&
		    before->cell_bytes == s->cell_bytes && s->elapsed_ns >= before->elapsed_ns;
	bool copied = same && before->pass <= 1 && s->pass > 1;
	double left = same ? exp(-(double)(s->elapsed_ns - before->elapsed_ns) / 1e9 / FADE_S) : 0;

	for (uint32_t i = 0; i < s->n_cells; i++) {
		uint64_t old = same && before->cells[i] <= s->cells[i] ? before->cells[i] : 0;

		view->heat[i] = copied ? 0 : view->heat[i] * left + (double)(s->cells[i] - old);
	}
}

static void note_history(struct view *view)
{
	if (view->n_history == VIEW_HISTORY) {
		view->n_history--;
		memmove(view->dirtied, view->dirtied + 1, view->n_history * sizeof(double));
		memmove(view->sent, view->sent + 1, view->n_history * sizeof(double));
	}
	view->dirtied[view->n_history] = view->new_pages.per_s;
	view->sent[view->n_history++] = view->sent_pages.per_s;
}

void view_update(struct view *view, const struct snapshot *snapshot)
{
	bool first = !view->has_snapshot || snapshot->n_vcpus != view->now.n_vcpus;

	if (first)
		for_each_rate(view, snapshot, rate_begin);
	else
		for_each_rate(view, snapshot, rate_update);
	update_heat(view, snapshot);
	view->now = *snapshot;
	view->has_snapshot = true;
	if (!first)
		note_history(view);
}
