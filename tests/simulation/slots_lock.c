/* SPDX-License-Identifier: MIT */
/*
 * The model uses thread-local counters so that read sections of one thread can nest. Coroutines
 * share one thread and do not nest, so each takes the lock itself.
 */
#include "internal.h"

void mk_slots_read_lock(struct model_vm *vm)
{
	pthread_rwlock_rdlock(&vm->slots_rw);
}

void mk_slots_read_unlock(struct model_vm *vm)
{
	pthread_rwlock_unlock(&vm->slots_rw);
}
