/* SPDX-License-Identifier: MIT */
#include "proof.h"
#include "commands.h"
#include "image.h"

#include <inttypes.h>
#include <string.h>

static int load(struct chain *chain, int dir_fd, uint64_t number, const struct point **point)
{
	chain_free(chain);
	return chain_load(chain, dir_fd) || chain_find(chain, number, point) ? -1 : 0;
}

int prove_last(struct chain *chain, int dir_fd, const struct machine *machine, uint64_t number,
	       struct report *report)
{
	const struct layout *layout = &machine->layout;
	uint64_t differ = 0, first = 0;
	const struct point *point;
	struct snap_state state;
	uint8_t *memory;
	int r;

	if (load(chain, dir_fd, number, &point))
		return report_error(report, STATUS_FAILED, "%s", chain->why);
	memory = image_map(layout->memory_bytes);
	if (!memory)
		return report_error(report, STATUS_FAILED, "no memory to compare with");
	r = image_restore(chain, point, memory, &state);
	for (uint64_t at = 0; !r && at < layout->memory_bytes; at += layout->page_bytes)
		if (memcmp(memory + at, machine->memory + at, layout->page_bytes))
			first = differ++ ? first : at;
	image_unmap(memory, layout->memory_bytes);
	if (r)
		return report_error(report, STATUS_CORRUPT, "%s", chain->why);
	report_member(report, "differing_pages", "%" PRIu64, differ);
	if (differ)
		return report_error(report, STATUS_CORRUPT,
				    "%" PRIu64 " pages differ from point %" PRIu64
				    ", the first at %#" PRIx64,
				    differ, point->number, layout_gpa(layout, first));
	report_field(report, "verify", "%" PRIu64 " pages equal those of point %" PRIu64,
		     layout->memory_bytes / layout->page_bytes, point->number);
	return STATUS_DONE;
}

int prove_all(struct chain *chain, struct report *report)
{
	int64_t unsound;

	report_rows(report, "unsound_points");
	unsound = verify_points(chain, report, false);
	report_rows_end(report);
	if (unsound < 0)
		return report_error(report, STATUS_FAILED, "%s", chain->why);
	if (unsound)
		return report_error(report, STATUS_CORRUPT,
				    "%" PRId64 " of %u points are not what memory was", unsound,
				    chain->n);
	report_field(report, "", "%u points are what memory was when they were taken", chain->n);
	return STATUS_DONE;
}
