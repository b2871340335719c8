/* SPDX-License-Identifier: MIT */
#ifndef MODEL_API_API_H
#define MODEL_API_API_H

/*
 * What is behind the handles of dirtylog/model.h. The model itself is one directory up; here are
 * argument checks, the journal of writes, and the receivers.
 *
 * Locks, outermost first: a receiver's; writes; the model's own (../internal.h); the journal's and
 * the error's. Every writer holds writes for reading from before its store until the store is
 * recorded, so that who holds it for writing sees both or neither.
 */

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include <dirtylog/model.h>

#include "../internal.h"
#include "table.h"

#define DLM_FIELD_END(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

/* The last write of a page. */
struct dlm_write {
	uint64_t page; /* the key: host address / page size, plus 1 */
	uint64_t number;
	uint64_t ns;
	const char *who;
	uint32_t writer; /* enum dlm_writer */
	uint32_t vcpu;
};

struct dlm_journal {
	pthread_mutex_t lock;
	struct dlm_table pages; /* of struct dlm_write */
	uint64_t writes;
};

struct dlm_vcpu {
	struct dlm_vm *vm;
	struct model_vcpu *model;
	uint32_t index;
	_Atomic bool is_unplugged;
	_Atomic bool has_thread; /* a thread has said that it runs the vCPU */
};

struct dlm_block {
	void *memory, *alias;
	bool is_aliased; /* somebody has asked for the alias */
	uint64_t bytes;
	struct dlm_block *next;
};

struct dlm_vm {
	struct model *model;
	struct model_vm *model_vm;
	int fd;
	uint64_t page_bytes;

	pthread_rwlock_t writes;
	struct dlm_journal journal;
	_Atomic uint64_t values; /* made for writes without data */

	pthread_mutex_t lock; /* the fields below */
	struct dlm_vcpu *vcpus[MAX_VCPUS];
	uint32_t vcpu_count;
	struct dlm_block *blocks;
	uint32_t fault_count;
	bool has_reset_fault;
	int reset_fault; /* its number */
	uint64_t reset_faults_before;

	pthread_mutex_t error_lock;
	char error[256];
};

/* vm.c: keeps the reason for dlm_last_error(), and returns error. */
int dlmi_fail(const struct dlm_vm *vm, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Whether no byte is set in what a struct of size bytes has beyond the known ones. */
bool dlmi_tail_is_zero(const void *given, size_t known, size_t size);

/* 0 if a caller's struct is at least as large as this release's, and its tail is zero. */
int dlmi_check_size(const struct dlm_vm *vm, const char *name, const void *given, size_t known);

/* memory.c */
void dlmi_memory_free_all(struct dlm_vm *vm);
/* Where the VMM writes what is at hva: 0 if the memory has no alias. */
uint64_t dlmi_alias_of(struct dlm_vm *vm, uint64_t hva);
/* The address in a block's memory for one of its alias; any other address as it is. */
uint64_t dlmi_memory_of(struct dlm_vm *vm, uint64_t address);

/* options.c */
int dlmi_options(const struct dlm_options *given, struct model_options *options, char *why,
		 size_t why_bytes);

/* journal.c */
void dlmi_journal_init(struct dlm_vm *vm);
void dlmi_journal_free(struct dlm_vm *vm);
void dlmi_journal_add(struct dlm_vm *vm, const struct dlm_write *write, uint64_t hva,
		      uint64_t bytes);
void dlmi_journal_forget(struct dlm_vm *vm, uint64_t hva, uint64_t bytes);
/* The last write to the page at a host address; its number is 0 if none is known. */
struct dlm_write dlmi_journal_find(const struct dlm_vm *vm, uint64_t hva);

/* write.c */
int dlmi_range_check(const struct dlm_vm *vm, uint64_t start, uint64_t bytes);
/* The bytes of a range from its start to the end of the first page. */
uint64_t dlmi_first_part(const struct dlm_vm *vm, uint64_t start, uint64_t bytes);
uint64_t dlmi_new_value(struct dlm_vm *vm);

/* layout.c: the VM's slots, the oldest first. */
struct dlm_slots {
	uint32_t count;
	struct dlm_place {
		uint32_t slot, flags;
		uint64_t gpa, hva, bytes, born, placed;
	} * places;
};

int dlmi_slots(const struct dlm_vm *vm, struct dlm_slots *slots);
/* The oldest slot that maps a host address, or NULL. */
const struct dlm_place *dlmi_home(const struct dlm_slots *slots, uint64_t hva);
const struct dlm_place *dlmi_place_at(const struct dlm_slots *slots, uint32_t as_id, uint64_t gpa);
const struct dlm_place *dlmi_place_named(const struct dlm_slots *slots, uint32_t slot);

/* copies.c: what a receiver has. */
struct dlm_copy {
	uint64_t key;
	uint64_t pass;
	uint64_t after; /* the number of the last write before it was made */
	uint64_t ns;
	bool is_exact; /* read by dlm_receiver_put() itself */
	uint8_t *data;
};

struct dlm_receiver {
	struct dlm_vm *vm;
	uint32_t kind;
	pthread_mutex_t lock;
	struct dlm_table copies; /* of struct dlm_copy */
	uint64_t given_pages;
	uint64_t pass;	      /* number of the pass; 0: none yet */
	uint64_t pass_writes; /* number of the last write before it */
	uint64_t pass_placed; /* slots that were created or moved before it */
};

/* The receiver's name for the page of a place. */
uint64_t dlmi_key(const struct dlm_receiver *receiver, const struct dlm_place *home, uint64_t hva);
struct dlm_copy *dlmi_copy_find(const struct dlm_receiver *receiver, uint64_t key);
/* The copy with that key, which is made if there is none. NULL: no memory. */
struct dlm_copy *dlmi_copy_get(struct dlm_receiver *receiver, uint64_t key);
void dlmi_copies_free(struct dlm_receiver *receiver);

#endif
