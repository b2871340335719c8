/* SPDX-License-Identifier: MIT */
/*
 * The model lets read sections of one thread nest, by thread-local counters. Here all coroutines are
 * one thread and none nests, so they take the lock each for itself.
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
