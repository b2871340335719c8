/* SPDX-License-Identifier: MIT */
#include "inlets.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void *inlet_main(void *opaque)
{
	struct inlet *inlet = opaque;
	struct wire_header header;

	inlet->result = receiver_run(&inlet->receiver, WIRE_CHANNEL_END, &header);
	if (!inlet->result)
		return NULL;
	atomic_store(&inlet->failed, true);
	(void)shutdown(inlet->control->fd, SHUT_RD);
	return NULL;
}

int inlets_add(struct inlets *inlets, int fd, uint64_t token, struct wire *control,
	       struct machine *machine)
{
	struct inlet *inlet = &inlets->inlet[inlets->n];
	uint64_t said = 0;
	int r;

	memset(inlet, 0, sizeof(*inlet));
	wire_init(&inlet->wire, fd);
	inlet->wire.cancelled = control->cancelled;
	inlet->receiver = (struct receiver){ .wire = &inlet->wire, .machine = machine };
	inlet->control = control;
	r = wire_expect(&inlet->wire, WIRE_CHANNEL, &said, sizeof(said));
	if (!r && said != token)
		r = wire_fail(&inlet->wire, -EPROTO, "it belongs to another migration");
	if (!r && (r = -pthread_create(&inlet->thread, NULL, inlet_main, inlet)))
		wire_fail(&inlet->wire, r, "no thread: %s", strerror(-r));
	if (r) {
		close(fd);
		return wire_fail(control, r, "channel %u: %.200s", inlets->n + 1, inlet->wire.why);
	}
	inlets->n++;
	return 0;
}

int inlets_end(struct inlets *inlets, bool failed, struct receiver *sum)
{
	int result = 0;

	for (unsigned int i = 0; i < inlets->n; i++) {
		struct inlet *inlet = &inlets->inlet[i];

		bool by_itself = !failed || atomic_load(&inlet->failed);

		if (failed)
			(void)shutdown(inlet->wire.fd, SHUT_RD);
		pthread_join(inlet->thread, NULL);
		close(inlet->wire.fd);
		sum->pages += inlet->receiver.pages;
		if (inlet->result && by_itself && !result)
			result = wire_fail(inlet->control, inlet->result, "channel %u: %.200s",
					   i + 1, inlet->wire.why);
	}
	inlets->n = 0;
	return result;
}
