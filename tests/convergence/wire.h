/* SPDX-License-Identifier: MIT */
#ifndef CONVERGENCE_WIRE_H
#define CONVERGENCE_WIRE_H

/* The wire: how much it takes at a moment. */

#include "loads.h"
#include "random.h"

struct wire {
	double pages_per_s;	    /* at its best guess */
	double now;		    /* as wire_rate() returned it last */
	double noise;		    /* deviation of the logarithm */
	double wander;		    /* the noise now: what another user of the wire leaves */
	double dip_at_s, dip_end_s; /* a tenth of it in between */
	struct random *random;
};

void wire_init(struct wire *wire, const struct load *load, double unit_bytes,
	       struct random *random);

/* Pages a second in the next millisecond. */
double wire_rate(struct wire *wire, double at_s);

#endif
