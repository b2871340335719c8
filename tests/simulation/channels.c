/* SPDX-License-Identifier: MIT */
#include "channels.h"

#include <string.h>

#include "world.h"

enum { PIECE_BYTES = PAGE_BYTES / 2 };

static void deliver(struct consumer *consumer, struct channel *channel)
{
	const struct message *message = &channel->queue[channel->first];

	if (!channel->n)
		return;
	receivers_get(consumer->number, message, 0, PAGE_BYTES);
	channel->first = (channel->first + 1) % CHANNEL_MESSAGES;
	channel->n--;
}

/* No other task runs between the two: an old version cannot overwrite a new one. */
static void send_at_once(struct consumer *consumer, struct message *message, const uint8_t *from)
{
	for (uint32_t at = 0; at < PAGE_BYTES; at += PIECE_BYTES) {
		sim_point(SIM_SITE("contents are read and sent"));
		memcpy(message->bytes + at, from + at, PIECE_BYTES);
		receivers_get(consumer->number, message, at, PIECE_BYTES);
	}
}

void channels_send(struct consumer *consumer, const struct place *place, uint32_t page,
		   uint64_t gpa_page)
{
	struct message message = {
		.block = place->block,
		.page = (uint16_t)(place->first_page + page),
		.gpa_page = (uint32_t)gpa_page,
	};
	const uint8_t *from = memory[place->block] + (place->first_page + page) * PAGE_BYTES;
	uint64_t chance = sim_random(&world.chance);
	struct channel *channel = &consumer->channels[chance % CHANNELS];

	if (!world.plan->sends_late) {
		send_at_once(consumer, &message, from);
		return;
	}
	for (uint32_t at = 0; at < PAGE_BYTES; at += PIECE_BYTES) {
		sim_point(SIM_SITE("contents are read"));
		memcpy(message.bytes + at, from + at, PIECE_BYTES);
	}
	sim_point(SIM_SITE("contents are sent"));
	if (channel->n == CHANNEL_MESSAGES)
		deliver(consumer, channel);
	channel->queue[(channel->first + channel->n++) % CHANNEL_MESSAGES] = message;
	world.counts.late++;
	if (!(chance >> 8 & 3))
		deliver(consumer, &consumer->channels[chance >> 16 & 1]);
}

/* The words of removed slots: the caller sends their pages after the flush. */
void channels_send_kept(struct consumer *consumer)
{
	uint8_t bit = (uint8_t)(1 << consumer->number);

	if (!(world.kept_for & bit))
		return;
	world.kept_for &= (uint8_t)~bit;
	for (uint32_t b = 0; b < world.plan->block_count; b++)
		for (uint32_t page = 0; page < world.plan->block_pages[b]; page++) {
			if (!(world.notes[b][page].kept & bit))
				continue;
			world.notes[b][page].kept &= (uint8_t)~bit;
			receivers_copy_block(bit, b, page, 1);
		}
}

void channels_flush(struct consumer *consumer)
{
	struct channel *channels = consumer->channels;

	while (channels[0].n || channels[1].n)
		deliver(consumer, &channels[sim_random(&world.chance) & 1]);
	if (!world.plan->keeps_words)
		channels_send_kept(consumer);
}
