/* SPDX-License-Identifier: MIT */
/* A stale page in words. */
#include <stdarg.h>
#include <stdio.h>

#include "api.h"

enum { SECOND_NS = 1000000000 };

struct text {
	char *to;
	size_t bytes;
	size_t length; /* of the whole text */
};

static __attribute__((format(printf, 2, 3))) void say(struct text *text, const char *format, ...)
{
	size_t done = text->length < text->bytes ? text->length : text->bytes;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length =
		vsnprintf(text->to ? text->to + done : NULL, text->bytes - done, format, arguments);
	va_end(arguments);
	text->length += length > 0 ? (size_t)length : 0;
}

static void say_time(struct text *text, uint64_t ns)
{
	say(text, "%llu.%09llu s", (unsigned long long)(ns / SECOND_NS),
	    (unsigned long long)(ns % SECOND_NS));
}

static void say_writer(struct text *text, const struct dlm_stale *stale)
{
	switch (stale->writer) {
	case DLM_WRITER_VCPU:
		say(text, "vCPU %u", stale->vcpu);
		break;
	case DLM_WRITER_KERNEL:
		say(text, "the kernel (no vCPU)");
		break;
	case DLM_WRITER_VMM:
		say(text, "the VMM");
		if (stale->who)
			say(text, " (%s)", stale->who);
		break;
	default:
		say(text, "nobody that the model knows");
	}
}

static void say_page(struct text *text, const struct dlm_stale *stale)
{
	say(text, "The page at guest address %#llx (slot %u:%u, offset %#llx) ",
	    (unsigned long long)stale->gpa, stale->slot >> 16, stale->slot & 0xffff,
	    (unsigned long long)stale->offset_bytes);
	if (stale->flags & DLM_STALE_NEVER_COPIED)
		say(text, "was never given to the receiver");
	else
		say(text, "is stale in the receiver from byte %llu on",
		    (unsigned long long)stale->at_byte);
}

static void say_write(struct text *text, const struct dlm_stale *stale)
{
	if (!stale->write && (stale->flags & DLM_STALE_NEVER_COPIED)) {
		say(text, "; nobody that the model knows has written it");
	} else if (!stale->write) {
		say(text, ": nobody that the model knows has written it since the copy, so that "
			  "the program itself has, and did not tell with dlm_vmm_wrote()");
	} else {
		say(text, ": its last write, number %llu, is by ",
		    (unsigned long long)stale->write);
		say_writer(text, stale);
		say(text, " at ");
		say_time(text, stale->write_ns);
	}
	if (stale->flags & DLM_STALE_NEVER_COPIED)
		return;
	say(text,
	    stale->flags & DLM_STALE_OLD_CONTENTS ? "; contents came after write %llu at "
						  : "; the copy was made after write %llu at ",
	    (unsigned long long)stale->copied_after);
	say_time(text, stale->copied_ns);
	if (stale->flags & DLM_STALE_OLD_CONTENTS)
		say(text, ", but had been read before it");
}

static void say_record(struct text *text, const struct dlm_stale *stale)
{
	if (stale->flags & DLM_STALE_RECORDED)
		say(text, ". KVM has it recorded in %s: a harvest is missing",
		    stale->states & DLM_PAGE_IN_RING	 ? "a ring"
		    : stale->states & DLM_PAGE_IN_BITMAP ? "the bitmap"
							 : "a vCPU's buffer");
	else
		say(text, ". KVM has no record of it");
	if (stale->writer == DLM_WRITER_VMM && !(stale->flags & DLM_STALE_RECORDED))
		say(text, ", as it never has of the VMM's writes: was it marked?");
	else
		say(text, ".");
	if (stale->pages > 1)
		say(text, " %llu pages are stale in all.", (unsigned long long)stale->pages);
}

int dlm_stale_describe(const struct dlm_stale *stale, char *to, size_t bytes)
{
	struct text text = { .to = to, .bytes = bytes };
	int saved_errno = errno, result;

	if (!to && bytes)
		return -EINVAL;
	result = dlmi_check_size(NULL, "stale", stale, sizeof(*stale));
	if (result)
		return result;
	if (bytes)
		*to = '\0';
	say_page(&text, stale);
	say_write(&text, stale);
	say_record(&text, stale);
	errno = saved_errno;
	return (int)text.length;
}
