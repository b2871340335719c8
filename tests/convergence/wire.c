/* SPDX-License-Identifier: MIT */
#include "wire.h"

#include <math.h>

#define LITTLE_NOISE 0.05
#define DIP_SHARE    0.1
#define DIP_SPREAD_S 20

void wire_init(struct wire *wire, const struct load *load, double unit_bytes, struct random *random)
{
	*wire = (struct wire){
		.pages_per_s = load->wire_bytes_per_s / unit_bytes,
		.noise = load->noise > 0 ? load->noise : LITTLE_NOISE,
		.random = random,
	};
	if (!(load->dip_s > 0))
		return;
	wire->dip_at_s = load->dip_from_s + DIP_SPREAD_S * random_unit(random);
	wire->dip_end_s = wire->dip_at_s + load->dip_s;
}

double wire_rate(struct wire *wire, double at_s)
{
	double share;

	/* It forgets within 50 ms, and deviates by the noise: 0.2 is the root of 1 - 0.98 ^ 2. */
	wire->wander = 0.98 * wire->wander + 0.2 * wire->noise * random_gauss(wire->random);
	share = exp(wire->wander);
	share = fmin(fmax(share, 0.25), 2);
	if (at_s >= wire->dip_at_s && at_s < wire->dip_end_s)
		share *= DIP_SHARE;
	wire->now = wire->pages_per_s * share;
	return wire->now;
}
