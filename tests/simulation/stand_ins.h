/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_STAND_INS_H
#define SIMULATION_STAND_INS_H

/* Replacements for locks, liburcu, memory, files and time in the code under test (seam.h). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "scheduler.h"

/* Locks. */

struct sim_mutex {
	uint32_t magic;
	uint32_t owner; /* task id + 1 */
	uint32_t waiters;
};

/* No spurious wakeups: every waiter rechecks its condition anyway. */
struct sim_cond {
	uint32_t magic;
	uint32_t waiters;
	uint64_t broadcasts;
};

struct sim_rwlock {
	uint32_t magic;
	uint32_t writer; /* task id + 1 */
	uint32_t readers;
	uint32_t waiting_writers;
};

int sim_mutex_init(struct sim_mutex *mutex);
void sim_mutex_destroy(struct sim_mutex *mutex);
void sim_mutex_lock(struct sim_mutex *mutex, const char *name, struct sim_site *site);
void sim_mutex_unlock(struct sim_mutex *mutex, struct sim_site *site);

int sim_mutex_trylock(struct sim_mutex *mutex, struct sim_site *site);

int sim_cond_init(struct sim_cond *cond);
void sim_cond_destroy(struct sim_cond *cond);
void sim_cond_wait(struct sim_cond *cond, struct sim_mutex *mutex, struct sim_site *site);
void sim_cond_broadcast(struct sim_cond *cond, struct sim_site *site);

int sim_rwlock_init(struct sim_rwlock *lock);
void sim_rwlock_destroy(struct sim_rwlock *lock);
void sim_rwlock_read(struct sim_rwlock *lock, struct sim_site *site);
void sim_rwlock_write(struct sim_rwlock *lock, struct sim_site *site);
void sim_rwlock_unlock(struct sim_rwlock *lock, struct sim_site *site);

void sim_rcu_read_lock(struct sim_site *site);
void sim_rcu_read_unlock(struct sim_site *site);
void sim_rcu_synchronize(struct sim_site *site);

/* Memory. Allocations of the library can be made to fail. */

void *sim_allocate(size_t bytes, bool of_library);
void *sim_reallocate(void *memory, size_t bytes);
void sim_free(void *memory);

/* The number of pieces not freed, and whether a freed one was written to. */
uint64_t sim_memory_left(void);
bool sim_memory_written_after_free(void);

/* Ends the run: drops all memory and files. */
void sim_memory_reset(void);

/* Allocations of the library until one fails; 0: none fails. */
extern uint32_t sim_allocations_until_failure;

/* Time, which only advances with points. */
int sim_clock_gettime(clockid_t clock, struct timespec *t);

/* The smallest ring is a page of entries: with pages this small it has 16. */
enum { SIM_PAGE_BYTES = 256 };

/* Files, which are plain memory. */

static inline int sim_no_advice(void)
{
	return 0;
}

int sim_file_new(void);
int sim_file_resize(int file, size_t bytes);
int sim_file_close(int file);
void *sim_file_map(int file, size_t bytes, size_t offset_bytes);
const void *sim_file_around(const void *address); /* the first byte of the file */
int sim_file_unmap(void *memory);
long sim_file_read(int file, void *to, size_t bytes, size_t offset_bytes);
long sim_file_write(int file, const void *from, size_t bytes, size_t offset_bytes);

/* Accesses of the kernel's side to a cell: cells.c looks for a push into a cell being taken. */
void sim_cell_loaded(const void *address, uint64_t value, const char *function);
void sim_cell_storing(const void *address, const char *function);
void sim_cell_stored(const void *address, const char *function);

#endif
