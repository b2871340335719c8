/* SPDX-License-Identifier: MIT */
/* The CPU clocks of threads that run vCPUs, which tell how long a guest ran. */
#include <errno.h>
#include <time.h>

#include "internal.h"

#define SECOND_NS 1000000000u

/* The calling thread's vCPU. Models are named by number: another may get a freed one's address. */
static _Thread_local struct {
	uint64_t model;
	int vcpu_fd;
} runs;

uint64_t mk_model_number(void)
{
	static _Atomic uint64_t models;

	return atomic_fetch_add(&models, 1) + 1;
}

static int begin(struct model *model, unsigned long request)
{
	const struct model_call call = { .request = request, .fd = -1 };
	bool after;

	return mk_call_begin(model, &call, &after);
}

static int real_clock(int64_t *clock_id)
{
	clockid_t clock;
	int result = -pthread_getcpuclockid(pthread_self(), &clock);

	if (!result)
		*clock_id = clock;
	return result;
}

static int real_ns(int64_t clock_id, uint64_t *ns)
{
	struct timespec t;
	int saved_errno = errno, result = clock_gettime((clockid_t)clock_id, &t) ? -errno : 0;

	if (!result)
		*ns = (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
	errno = saved_errno;
	return result;
}

int mk_thread_clock(void *opaque, int64_t *clock_id)
{
	struct model *model = opaque;
	int result = begin(model, MODEL_CALL_THREAD_CLOCK);

	if (result)
		return result;
	if (!model->options.virtual_clock)
		return real_clock(clock_id);
	*clock_id = runs.model == model->number ? runs.vcpu_fd : 0;
	return 0;
}

/* Called with call_lock held. */
static uint64_t paused_ns(const struct model_vcpu *vcpu, uint64_t now)
{
	uint64_t end = now < vcpu->pause_end_ns ? now : vcpu->pause_end_ns;

	return vcpu->paused_ns + (end > vcpu->pause_begin_ns ? end - vcpu->pause_begin_ns : 0);
}

int mk_thread_ns(void *opaque, int64_t clock_id, uint64_t *ns)
{
	struct model *model = opaque;
	int result = begin(model, MODEL_CALL_THREAD_NS);
	const struct model_vcpu *vcpu;

	if (result)
		return result;
	if (!model->options.virtual_clock)
		return real_ns(clock_id, ns);
	vcpu = clock_id ? mk_find_vcpu(model, (int)clock_id) : NULL;
	if (clock_id && !vcpu)
		return -EINVAL;
	pthread_mutex_lock(&model->call_lock);
	*ns = mk_now_ns(model);
	*ns -= vcpu ? paused_ns(vcpu, *ns) : 0;
	pthread_mutex_unlock(&model->call_lock);
	return 0;
}

void model_vcpu_thread(struct model *model, int vcpu_fd)
{
	runs.model = model->number;
	runs.vcpu_fd = vcpu_fd;
}

void model_vcpu_pause(struct model *model, int vcpu_fd, uint64_t ns)
{
	struct model_vcpu *vcpu = mk_find_vcpu(model, vcpu_fd);
	uint64_t now;

	pthread_mutex_lock(&model->call_lock);
	now = mk_now_ns(model);
	vcpu->paused_ns = paused_ns(vcpu, now);
	vcpu->pause_begin_ns = now;
	vcpu->pause_end_ns = ns < UINT64_MAX - now ? now + ns : UINT64_MAX;
	pthread_mutex_unlock(&model->call_lock);
}
