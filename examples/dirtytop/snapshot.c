/* SPDX-License-Identifier: MIT */
#include "snapshot.h"
#include "json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_COUNT (UINT64_C(1) << 62) /* sums of two do not wrap */

/* Where a value goes. */
struct field {
	const char *path;
	size_t offset;
	size_t text_bytes; /* 0: a number */
	size_t stride;	   /* of an array, with room for n elements */
	uint32_t n;
	size_t count_offset; /* of the array's number of elements */
};

#define AT(member) offsetof(struct snapshot, member)
#define NUMBER(path, member)                 \
	{                                    \
		path, AT(member), 0, 0, 1, 0 \
	}
#define TEXT(path, member)                                                        \
	{                                                                         \
		path, AT(member), sizeof(((struct snapshot *)0)->member), 0, 1, 0 \
	}
#define VCPU(name)                                                                    \
	{                                                                             \
		"vcpus[]." #name, AT(vcpus[0].name), 0, sizeof(struct snapshot_vcpu), \
			(uint32_t)STATUS_VCPUS, AT(n_vcpus)                           \
	}

static const struct field fields[] = {
	{ "heat.pages[]", AT(cells), 0, sizeof(uint64_t), HEAT_CELLS, AT(n_cells) },
	NUMBER("dirtylog_status", version),
	NUMBER("elapsed_ns", elapsed_ns),
	TEXT("program", program),
	NUMBER("pid", pid),
	TEXT("state", state),
	NUMBER("ended", ended),
	TEXT("mode", mode),
	NUMBER("ring_entries", ring_entries),
	NUMBER("page_bytes", page_bytes),
	NUMBER("log.new_pages", new_pages),
	NUMBER("log.overflows", overflows),
	NUMBER("log.full_exits", full_exits),
	NUMBER("cursor.pending_bytes", pending_bytes),
	NUMBER("cursor.unacked_bytes", unacked_bytes),
	NUMBER("pass.number", pass),
	NUMBER("pass.bytes", pass_bytes),
	NUMBER("pass.sent_bytes", pass_sent_bytes),
	NUMBER("sent.pages", sent_pages),
	NUMBER("sent.wire_bytes", wire_bytes),
	TEXT("verdict", verdict),
	NUMBER("held_vcpus", held_vcpus),
	VCPU(cookie),
	VCPU(entries),
	VCPU(new_pages),
	VCPU(full_exits),
	VCPU(high_water_entries),
	NUMBER("heat.cell_bytes", cell_bytes),
};

static void store(struct snapshot *snapshot, const struct field *field,
		  const struct json_value *value)
{
	char *to = (char *)snapshot + field->offset;
	uint64_t number = value->number < MAX_COUNT ? value->number : MAX_COUNT;

	if (value->is_text != !!field->text_bytes || (field->stride && value->index >= field->n))
		return;
	if (field->text_bytes) {
		snprintf(to, field->text_bytes, "%s", value->text);
		return;
	}
	memcpy(to + field->stride * (field->stride ? value->index : 0), &number, sizeof(number));
	if (field->stride) {
		uint32_t *count = (uint32_t *)((char *)snapshot + field->count_offset);

		if (value->index >= *count)
			*count = value->index + 1;
	}
}

static void visit(void *opaque, const struct json_value *value)
{
	struct snapshot *snapshot = opaque;

	if (!strcmp(value->path, "slots[].bytes")) {
		snapshot->n_slots++;
		if (value->number < MAX_COUNT - snapshot->memory_bytes)
			snapshot->memory_bytes += value->number;
		return;
	}
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (!strcmp(fields[i].path, value->path)) {
			store(snapshot, &fields[i], value);
			return;
		}
}

bool snapshot_parse(struct snapshot *snapshot, const char *line, char *why, size_t why_bytes)
{
	bool good;

	memset(snapshot, 0, sizeof(*snapshot));
	good = json_visit(line, visit, snapshot);
	if (good && snapshot->version == STATUS_VERSION && snapshot->page_bytes)
		return true;
	if (good && snapshot->version && snapshot->version != STATUS_VERSION)
		snprintf(why, why_bytes,
			 "it speaks version %" PRIu64 " of the protocol, and this is version %d",
			 snapshot->version, STATUS_VERSION);
	else
		snprintf(why, why_bytes, "what it sends is not the status of a dirty log");
	return false;
}
