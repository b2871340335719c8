/* SPDX-License-Identifier: MIT */
/* Injected faults, call counters, and the hook. */
#include <errno.h>
#include <string.h>

#include "internal.h"

static void count_call(struct model *model, unsigned long request)
{
	unsigned i;

	for (i = 0; i < MAX_REQUESTS; i++) {
		if (model->requests[i].calls && model->requests[i].request != request)
			continue;
		model->requests[i].request = request;
		model->requests[i].calls++;
		return;
	}
}

uint64_t model_calls(struct model *model, unsigned long request)
{
	uint64_t calls = 0;
	unsigned i;

	pthread_mutex_lock(&model->call_lock);
	for (i = 0; i < MAX_REQUESTS; i++)
		if (model->requests[i].calls && model->requests[i].request == request)
			calls = model->requests[i].calls;
	pthread_mutex_unlock(&model->call_lock);
	return calls;
}

/* The slot or capability that a call concerns. */
static bool call_object(const struct model *model, const struct model_call *call, uint32_t *object)
{
	if (call->request == KVM_CHECK_EXTENSION) {
		*object = (uint32_t)(uintptr_t)call->arg;
		return true;
	}
	/* All of these structs begin with it, as a u32. */
	if (call->arg &&
	    (call->request == KVM_ENABLE_CAP || call->request == KVM_GET_DIRTY_LOG ||
	     call->request == KVM_CLEAR_DIRTY_LOG || mk_is_region_ioctl(model, call->request))) {
		memcpy(object, call->arg, sizeof(*object));
		return true;
	}
	return false;
}

static bool in_window(uint32_t *matched, uint32_t skip, uint32_t times)
{
	uint32_t now = *matched;

	if (now < UINT32_MAX)
		++*matched;
	return now >= skip && (!times || now - skip < times);
}

/*
 * Counts the call. Returns 0, or the negative errno value with which the call must fail. If *after
 * is set, it does its work first.
 */
int mk_call_begin(struct model *model, const struct model_call *call, bool *after)
{
	uint32_t object = 0;
	bool has_object = call_object(model, call, &object);
	int result = 0;
	unsigned i;

	*after = false;
	pthread_mutex_lock(&model->call_lock);
	count_call(model, call->request);
	for (i = 0; i < MAX_FAULTS && !result; i++) {
		const struct model_fault *fault = &model->faults[i].fault;

		if (!model->faults[i].used || fault->request != call->request)
			continue;
		if (fault->only_slot && (!has_object || object != fault->slot))
			continue;
		if (!in_window(&model->faults[i].matched, fault->skip, fault->times))
			continue;
		*after = fault->after;
		result = -fault->error;
		model->faults[i].injected++;
		atomic_fetch_add(&model->injected, 1);
	}
	pthread_mutex_unlock(&model->call_lock);
	return result;
}

int model_fault(struct model *model, const struct model_fault *fault)
{
	int result = model_fault_add(model, fault);

	return result < 0 ? result : 0;
}

int model_fault_add(struct model *model, const struct model_fault *fault)
{
	int result = -ENOSPC;
	unsigned i;

	pthread_mutex_lock(&model->call_lock);
	for (i = 0; i < MAX_FAULTS && result < 0; i++) {
		if (model->faults[i].used)
			continue;
		model->faults[i].used = true;
		model->faults[i].matched = 0;
		model->faults[i].injected = 0;
		model->faults[i].fault = *fault;
		result = (int)i;
	}
	pthread_mutex_unlock(&model->call_lock);
	return result;
}

void model_reset_fault(struct model *model, const struct model_reset_fault *fault)
{
	pthread_mutex_lock(&model->call_lock);
	model->reset_fault = *fault;
	model->resets_matched = 0;
	model->resets_injected = 0;
	model->reset_faulty = true;
	pthread_mutex_unlock(&model->call_lock);
}

bool mk_reset_fault_take(struct model *model, struct model_reset_fault *fault)
{
	bool hit;

	pthread_mutex_lock(&model->call_lock);
	*fault = model->reset_fault;
	hit = model->reset_faulty && in_window(&model->resets_matched, fault->skip, fault->times);
	pthread_mutex_unlock(&model->call_lock);
	return hit;
}

void mk_reset_fault_count(struct model *model)
{
	atomic_fetch_add(&model->injected, 1);
	atomic_fetch_add(&model->resets_injected, 1);
}

uint64_t model_faults_injected(struct model *model)
{
	return atomic_load(&model->injected);
}

uint64_t model_fault_injected(struct model *model, int fault)
{
	uint64_t injected = 0;

	pthread_mutex_lock(&model->call_lock);
	if (fault >= 0 && fault < MAX_FAULTS)
		injected = model->faults[fault].injected;
	pthread_mutex_unlock(&model->call_lock);
	return injected;
}

uint64_t model_reset_faults_injected(struct model *model)
{
	return atomic_load(&model->resets_injected);
}

void model_faults_clear(struct model *model)
{
	pthread_mutex_lock(&model->call_lock);
	memset(model->faults, 0, sizeof(model->faults));
	model->reset_faulty = false;
	pthread_mutex_unlock(&model->call_lock);
}

void model_hook(struct model *model, void (*hook)(void *opaque, const struct model_event *event),
		void *opaque)
{
	model->options.hook_opaque = opaque;
	model->options.hook = hook;
}

void mk_event_page(struct model *model, enum model_point point, int fd, uint32_t slot,
		   uint64_t page)
{
	const struct model_event event = { .point = point, .fd = fd, .slot = slot, .page = page };

	if (model->options.hook)
		model->options.hook(model->options.hook_opaque, &event);
}

void mk_event_call(struct model *model, enum model_point point, const struct model_call *call,
		   int result)
{
	const struct model_event event = { .point = point,
					   .fd = call->fd,
					   .request = call->request,
					   .arg = call->arg,
					   .result = result };

	if (model->options.hook)
		model->options.hook(model->options.hook_opaque, &event);
}
