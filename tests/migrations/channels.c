/* SPDX-License-Identifier: MIT */
#include "channels.h"

#include <stdlib.h>

void channels_init(struct channels *channels, uint64_t seed)
{
	pthread_mutex_init(&channels->lock, NULL);
	channels->random.state = seed | 1;
	for (int i = 0; i < 2; i++) {
		channels->channel[i].first = NULL;
		channels->channel[i].end = &channels->channel[i].first;
	}
}

void channels_free(struct channels *channels)
{
	for (int i = 0; i < 2; i++)
		while (channels->channel[i].first) {
			struct channel_message *message = channels->channel[i].first;

			channels->channel[i].first = message->next;
			free(message);
		}
	pthread_mutex_destroy(&channels->lock);
}

struct channel_message *channels_message(const struct dl_extent *extent, uint64_t pass)
{
	struct channel_message *message = malloc(sizeof(*message) + extent->bytes);

	if (!message)
		abort();
	message->next = NULL;
	message->extent = *extent;
	message->pass = pass;
	return message;
}

void channels_send(struct channels *channels, struct channel_message *message)
{
	uint64_t i;

	pthread_mutex_lock(&channels->lock);
	i = random_below(&channels->random, 2);
	*channels->channel[i].end = message;
	channels->channel[i].end = &message->next;
	pthread_mutex_unlock(&channels->lock);
}

/* The next message of a channel, or of the other one if it has none. */
static struct channel_message *next_message(struct channels *channels, uint64_t i)
{
	struct channel_message *message;

	if (!channels->channel[i].first)
		i = !i;
	message = channels->channel[i].first;
	if (!message)
		return NULL;
	channels->channel[i].first = message->next;
	if (!message->next)
		channels->channel[i].end = &channels->channel[i].first;
	return message;
}

void channels_flush(struct channels *channels,
		    void (*deliver)(void *opaque, const struct channel_message *message),
		    void *opaque)
{
	struct channel_message *message;

	pthread_mutex_lock(&channels->lock);
	while ((message = next_message(channels, random_below(&channels->random, 2)))) {
		deliver(opaque, message);
		free(message);
	}
	pthread_mutex_unlock(&channels->lock);
}
