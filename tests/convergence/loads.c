/* SPDX-License-Identifier: MIT */
/* The loads. Rates vary by up to 15% from seed to seed, except steady ones. */

#include "loads.h"

#include <stddef.h>

#define GBIT_1	 0.11e9
#define GBIT_1_5 0.19e9
#define GBIT_10	 1.1e9
#define GBIT_100 11e9
#define READERS(n)                                                                  \
	{                                                                           \
		.vcpus = (n), .readers = true,                                      \
		.streams = { { STREAM_HOT, 0.8 * MIB, 40 * MIB, .steady = true } }, \
	}

/* Defaults of the acceptance: a run in a hundred may break the downtime. */
#define STRICT .must_end = true, .broken_share = 0.01

static const struct load loads[LOADS] = {
	{
		.name = "2 uniform writers, 6 readers",
		.memory_bytes = 24 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 60,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 2, .streams = { { STREAM_UNIFORM, 2 * GIB, 3 * GIB } } },
			   READERS(6) },
		STRICT,
	},
	{
		.name = "16 vCPUs, shared Zipf",
		.memory_bytes = 64 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 120,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 16,
			     .same_memory = true,
			     .streams = { { STREAM_ZIPF, 150 * MIB, 16 * GIB } } } },
		STRICT,
	},
	{
		.name = "4 sweeps, 4 readers",
		.memory_bytes = 32 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 75,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 4, .streams = { { STREAM_SWEEP, 600 * MIB, 4 * GIB } } },
			   READERS(4) },
		STRICT,
	},
	{
		.name = "memcpy above the wire",
		.memory_bytes = 32 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 75,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 1, .streams = { { STREAM_SWEEP, 4 * GIB, 16 * GIB } } },
			   READERS(7) },
		STRICT,
	},
	{
		.name = "phases",
		.memory_bytes = 32 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 90,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 8,
			     .streams = { { STREAM_UNIFORM, 500 * MIB, 1 * GIB, 4, 8 },
					  { STREAM_ZIPF, 30 * MIB, 1 * GIB, .steady = true } } } },
		STRICT,
	},
	{
		.name = "GC sweeps everything",
		.memory_bytes = 24 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 70,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 4,
			     .streams = { { STREAM_ZIPF, 40 * MIB, 1.5 * GIB },
					  { STREAM_GC, 1.5 * GIB, .off_s = 12, .steady = true } } },
			   { .vcpus = 4, .streams = { { STREAM_ZIPF, 40 * MIB, 1.5 * GIB } } } },
		STRICT,
	},
	{
		.name = "bursts of 0.7 s",
		.memory_bytes = 24 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 60,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 2,
			     .streams = { { STREAM_UNIFORM, 4 * GIB, 2 * GIB, 0.7, 1.3 } } },
			   READERS(6) },
		STRICT,
	},
	{
		.name = "wire at 10% for 10 s",
		.memory_bytes = 24 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 90,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 2, .streams = { { STREAM_UNIFORM, 1 * GIB, 2 * GIB } } },
			   READERS(6) },
		.dip_from_s = 15,
		.dip_s = 10,
		STRICT,
	},
	{
		.name = "twofold noise on the wire",
		.memory_bytes = 32 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 90,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 8, .streams = { { STREAM_HOT, 250 * MIB, 1 * GIB } } },
			   READERS(8) },
		.noise = 0.35,
		.must_end = true,
		.broken_share = 0.05,
	},
	{
		.name = "70% zero pages",
		.memory_bytes = 32 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 45,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 4, .streams = { { STREAM_HOT, 600 * MIB, 1.5 * GIB } } },
			   READERS(4) },
		.zero_share = 0.7,
		STRICT,
	},
	{
		.name = "64 vCPUs, 1 TiB",
		.memory_bytes = 1024 * GIB,
		.wire_bytes_per_s = GBIT_100,
		.budget_s = 180,
		.downtime_s = 0.5,
		.crews = { { .vcpus = 64, .streams = { { STREAM_UNIFORM, 300 * MIB, 4 * GIB } } } },
		STRICT,
	},
	{
		.name = "10 sweeps of 350 MB, 1.5 Gbit/s",
		.memory_bytes = 28 * GIB,
		.wire_bytes_per_s = GBIT_1_5,
		.budget_s = 250,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 10, .streams = { { STREAM_SWEEP, 1.2 * GIB, 350 * MIB } } } },
		STRICT,
	},
	{
		.name = "64 vCPUs share 2 GiB",
		.memory_bytes = 64 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 120,
		.downtime_s = 0.3,
		.ring_entries = 65536,
		.crews = { { .vcpus = 64,
			     .same_memory = true,
			     .streams = { { STREAM_UNIFORM, 100 * MIB, 2 * GIB } } } },
		STRICT,
	},
	{
		.name = "the caller takes all at once",
		.takes_all = true,
		.any_guest = true,
		.broken_share = 0.02,
	},
	{
		.name = "kicks of 10 ms, ticks of 30 +- 30",
		.kick_s = 0.010,
		.late_s = 0.060,
		.any_guest = true,
		.broken_share = 0.02,
	},
	{
		.name = "a floor of 30 to 80%",
		.least_run = 0.3,
		.least_most = 0.8,
		.any_guest = true,
		.broken_share = 0.02,
	},
	{
		.name = "quiet",
		.memory_bytes = 4 * GIB,
		.wire_bytes_per_s = GBIT_1,
		.budget_s = 80,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 4, .streams = { { STREAM_HOT, 6 * MIB, 300 * MIB } } } },
		STRICT,
	},
	/* The wire seems to become very fast just before the first look at what is left. */
	{
		.name = "free memory comes last",
		.memory_bytes = 32 * GIB,
		.wire_bytes_per_s = GBIT_10,
		.budget_s = 45,
		.downtime_s = 0.3,
		.crews = { { .vcpus = 4, .streams = { { STREAM_UNIFORM, 100 * MIB, 200 * MIB } } },
			   READERS(4) },
		.zero_share = 0.7,
		.zero_last = true,
		STRICT,
	},
};

const struct load *load_find(uint32_t number)
{
	return number >= 1 && number <= LOADS ? &loads[number - 1] : NULL;
}

const struct load *load_guest(const struct load *load, uint64_t seed)
{
	return load->any_guest ? &loads[seed % 10] : load;
}
