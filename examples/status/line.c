/* SPDX-License-Identifier: MIT */
#include "line.h"
#include "../output.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static const char *state_name(const struct status_line *line, const struct activity *activity)
{
	static const char *const names[ACTIVITY_STATES] = {
		[ACTIVITY_WAITING] = "waiting",
		[ACTIVITY_LIVE] = "live",
		[ACTIVITY_PAUSED] = "paused",
		[ACTIVITY_HANDOVER] = "handover",
	};
	uint32_t state = atomic_load_explicit(&activity->state, memory_order_relaxed);

	if (line->ended)
		return line->ended;
	return state < ACTIVITY_STATES ? names[state] : "?";
}

static void print_head(FILE *to, const struct status_line *line, const struct status_source *source)
{
	const struct dl_config *config = &line->config;

	fprintf(to,
		"{\"dirtylog_status\":%d,\"sequence\":%" PRIu64 ",\"time_ns\":%" PRIu64
		",\"elapsed_ns\":%" PRIu64 ",\"interval_ms\":%" PRIu32 ",\"program\":",
		STATUS_VERSION, line->sequence, line->time_ns, line->elapsed_ns, line->interval_ms);
	output_json_text(to, source->program);
	fprintf(to, ",\"pid\":%ld,\"state\":", (long)getpid());
	output_json_text(to, state_name(line, source->activity));
	fprintf(to,
		",\"ended\":%s,\"mode\":\"%s\",\"backup_bitmap\":%s,\"ring_entries\":%" PRIu32
		",\"page_bytes\":%" PRIu32,
		line->ended ? "true" : "false", config->mode == DL_MODE_RING ? "ring" : "bitmap",
		config->backup ? "true" : "false", config->ring_entries, config->page_bytes);
}

static void print_log(FILE *to, const struct dl_log *log)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	if (dl_log_stats(log, &stats))
		return;
	fprintf(to,
		",\"log\":{\"entries\":%" PRIu64 ",\"new_pages\":%" PRIu64
		",\"duplicates\":%" PRIu64 ",\"stale_entries\":%" PRIu64 ",\"resets\":%" PRIu64
		",\"short_resets\":%" PRIu64 ",\"overflows\":%" PRIu64 ",\"repairs\":%" PRIu64
		",\"full_exits\":%" PRIu64 ",\"high_water_entries\":%" PRIu64
		",\"ioctl_ns\":%" PRIu64 "}",
		stats.entries, stats.new_pages, stats.duplicates, stats.stale_entries, stats.resets,
		stats.short_resets, stats.overflows, stats.repairs, stats.full_exits,
		stats.high_water_entries, stats.ioctl_ns);
}

static void print_work(FILE *to, const struct status_line *line, const struct activity *activity)
{
	const struct dl_cursor_stats *cursor = &line->cursor;

	if (line->has_cursor)
		fprintf(to,
			",\"cursor\":{\"pending_bytes\":%" PRIu64 ",\"unacked_bytes\":%" PRIu64
			",\"read_bytes\":%" PRIu64 ",\"acked_bytes\":%" PRIu64
			",\"passes\":%" PRIu64 "}",
			cursor->pending_bytes, cursor->unacked_bytes, cursor->read_bytes,
			cursor->acked_bytes, cursor->passes);
	else
		fputs(",\"cursor\":null", to);
	fprintf(to,
		",\"pass\":{\"number\":%" PRIu32 ",\"bytes\":%" PRIu64 ",\"sent_bytes\":%" PRIu64
		"},\"sent\":{\"pages\":%" PRIu64 ",\"wire_bytes\":%" PRIu64 "}",
		atomic_load_explicit(&activity->pass, memory_order_relaxed),
		get(&activity->pass_bytes), get(&activity->pass_sent_bytes),
		get(&activity->sent_pages), get(&activity->wire_bytes));
}

static void print_throttle(FILE *to, const struct activity *activity)
{
	static const char *const names[] = {
		[DL_VERDICT_CONTINUE] = "continue",   [DL_VERDICT_SWITCHOVER] = "switchover",
		[DL_VERDICT_THROTTLED] = "throttled", [DL_VERDICT_LATE] = "late",
		[DL_VERDICT_DIVERGING] = "diverging",
	};
	uint32_t verdict = atomic_load_explicit(&activity->verdict, memory_order_relaxed);

	if (verdict >= sizeof(names) / sizeof(names[0]))
		verdict = DL_VERDICT_CONTINUE;
	fprintf(to, ",\"verdict\":\"%s\",\"held_vcpus\":%" PRIu32, names[verdict],
		atomic_load_explicit(&activity->held_vcpus, memory_order_relaxed));
}

static void print_vcpus(FILE *to, const struct status_source *source)
{
	fputs(",\"vcpus\":[", to);
	for (uint32_t i = 0, n = 0; i < source->n_vcpus; i++) {
		struct dl_stats stats = { .size = sizeof(stats) };

		if (dl_vcpu_stats(source->vcpus[i].vcpu, &stats))
			continue;
		fprintf(to,
			"%s{\"cookie\":%" PRIu64 ",\"entries\":%" PRIu64 ",\"new_pages\":%" PRIu64
			",\"resets\":%" PRIu64 ",\"full_exits\":%" PRIu64 ",\"overflows\":%" PRIu64
			",\"high_water_entries\":%" PRIu64 "}",
			n++ ? "," : "", source->vcpus[i].cookie, stats.entries, stats.new_pages,
			stats.resets, stats.full_exits, stats.overflows, stats.high_water_entries);
	}
	fputs("]", to);
}

static void print_heat(FILE *to, const struct heat *heat)
{
	fputs(",\"slots\":[", to);
	for (uint32_t i = 0; i < heat->n_slots; i++)
		fprintf(to, "%s{\"slot\":%" PRIu32 ",\"gpa\":%" PRIu64 ",\"bytes\":%" PRIu64 "}",
			i ? "," : "", heat->slots[i].slot, heat->slots[i].gpa,
			heat->slots[i].bytes);
	fprintf(to, "],\"heat\":{\"cell_bytes\":%" PRIu64 ",\"pages\":[", heat->cell_bytes);
	for (uint32_t i = 0; i < heat->n_cells; i++)
		fprintf(to, "%s%" PRIu64, i ? "," : "", get(&heat->pages[i]));
	fputs("]}", to);
}

char *status_line_make(const struct status_line *line, const struct status_source *source,
		       size_t *bytes)
{
	char *text = NULL;
	FILE *to = open_memstream(&text, bytes);
	bool failed;

	if (!to)
		return NULL;
	print_head(to, line, source);
	print_log(to, source->log);
	print_work(to, line, source->activity);
	print_throttle(to, source->activity);
	print_vcpus(to, source);
	print_heat(to, &source->activity->heat);
	fputs("}\n", to);
	failed = ferror(to);
	if (!fclose(to) && !failed)
		return text;
	free(text);
	return NULL;
}
