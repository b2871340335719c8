/* SPDX-License-Identifier: MIT */
/* The half of dirtylog.hpp that returns codes, built with -fno-exceptions. */
#include "precopy.hpp"

#include <cerrno>
#include <cstring>
#include <iterator>
#include <poll.h>
#include <sys/uio.h>

#ifdef __cpp_exceptions
#error "this file is to be compiled with -fno-exceptions"
#endif

namespace
{

dirtylog::slot slot_of(const guest &guest)
{
	dirtylog::slot slot;

	slot.bytes = guest.memory_bytes;
	slot.hva = reinterpret_cast<std::uintptr_t>(guest.memory);
	return slot;
}

struct rig {
	std::unique_ptr<::guest> guest = new_guest();
	dirtylog::log log;
	dirtylog::memslot slot;
	dirtylog::vcpu vcpu;
	std::error_code ec;
};

/* Calls test(rig) in each mode that this kernel has. */
template <class Test> void in_modes(Test test)
{
	for (std::uint32_t mode : { DL_MODE_RING, DL_MODE_BITMAP }) {
		rig rig;
		dirtylog::options options;
		char why[200] = "";

		options.mode = mode;
		options.os = rig.guest->os();
		options.ring_entries = rig.guest->ring_entries();
		rig.log = dirtylog::log::open(rig.guest->vm(), options, rig.ec, why, sizeof(why));
		CHECK(*why && !rig.log == !!rig.ec);
		if (rig.ec == std::errc::operation_not_supported && mode == DL_MODE_RING)
			continue;
		CHECK(!rig.ec);
		rig.slot = rig.log.add_slot(slot_of(*rig.guest), rig.ec);
		CHECK(!rig.ec);
		rig.vcpu = rig.log.add_vcpu(rig.guest->create_vcpu(), 7, rig.ec);
		CHECK(!rig.ec);
		test(rig);
	}
}

dirtylog::cursor new_cursor(rig &rig, std::uint32_t flags)
{
	dirtylog::cursor_options options;

	options.flags = flags;
	auto cursor = rig.log.new_cursor(options, rig.ec);
	CHECK(!rig.ec && cursor);
	return cursor;
}

void a_copy_by_a_range_is_equal_and_the_proof_finds_a_lost_extent()
{
	in_modes([](rig &rig) {
		auto cursor = new_cursor(rig, 0);

		prove(*rig.guest, rig.vcpu, [&](std::uint32_t flags, receiver &receiver) {
			auto pass = cursor.harvest(flags, rig.ec);

			CHECK(!rig.ec);
			for (const auto &extent : pass.each(rig.ec))
				receiver.receive(extent, flags & DL_HARVEST_PAUSED);
			CHECK(!rig.ec);
			auto pending_bytes = pass.pending_bytes();
			pass.finish(DL_END_COMMIT, rig.ec);
			CHECK(!rig.ec);
			return pending_bytes;
		});
	});
}

void a_copy_by_arrays_is_equal_and_the_proof_finds_a_lost_extent()
{
	in_modes([](rig &rig) {
		auto cursor = new_cursor(rig, 0);

		prove(*rig.guest, rig.vcpu, [&](std::uint32_t flags, receiver &receiver) {
			auto pass = cursor.harvest(flags, rig.ec);
			dirtylog::extent array[16];

			CHECK(!rig.ec);
			while (auto extents = pass.read(array, rig.ec)) {
				for (const auto &extent : extents)
					receiver.receive(extent, flags & DL_HARVEST_PAUSED);
				cursor.ack(extents, rig.ec);
				CHECK(!rig.ec);
			}
			CHECK(!rig.ec);
			return pass.pending_bytes();
		});
	});
}

/* Must not throw, and must say that a handle is missing. */
#define REFUSES(call)                                     \
	do {                                              \
		static_assert(noexcept(call));            \
		static_cast<void>(call);                  \
		CHECK(ec == std::errc::invalid_argument); \
		ec.clear();                               \
	} while (0)

void every_call_returns_a_code()
{
	std::error_code ec;
	dirtylog::log none;
	dirtylog::cursor no_cursor;
	dirtylog::vcpu no_vcpu;
	dirtylog::pass no_pass;
	dirtylog::plan no_plan;
	dirtylog::extent extent{};
	std::uint64_t word = 0;
	char text[8] = "?";

	REFUSES(none.config(ec));
	REFUSES(none.stats(ec));
	REFUSES(none.set(dirtylog::slot(), ec));
	REFUSES(none.add_slot(dirtylog::slot(), ec));
	REFUSES(none.remove(0, 0, nullptr, 0, ec));
	REFUSES(none.clear(0, 0, 0, ec));
	REFUSES(none.add_vcpu(0, 0, ec));
	REFUSES(none.new_cursor(dirtylog::cursor_options(), ec));
	REFUSES(none.fd(ec));
	REFUSES(none.reap(0, ec));
	REFUSES(none.kicks(&word, 1, ec));
	REFUSES(none.mark_gpa(0, 0, 0, ec));
	REFUSES(none.mark_slot(0, 0, 0, ec));
	REFUSES(none.mark_hva(nullptr, 0, ec));
	REFUSES(none.mark_iov(nullptr, 0, 0, 0, ec));
	REFUSES(none.mark_bitmap(dirtylog::bitmap(), nullptr, 0, ec));
	CHECK(none.describe(text, sizeof(text)) == -EINVAL);
	CHECK(none.last_error(text, sizeof(text)) == -EINVAL);
	REFUSES(no_vcpu.drain(ec));
	REFUSES(no_vcpu.stats(ec));
	REFUSES(no_vcpu.limit(1, ec));
	REFUSES(no_vcpu.pause_due(ec));
	REFUSES(no_cursor.harvest(0, ec));
	REFUSES(no_cursor.ack({ &extent, 1 }, ec));
	REFUSES(no_cursor.take(0, 0, &word, 1, ec));
	REFUSES(no_cursor.stats(ec));
	REFUSES(no_cursor.new_plan(dirtylog::goal(), ec));
	REFUSES(no_plan.sent(1, 1, ec));
	REFUSES(no_plan.next(0, ec));
	REFUSES(no_pass.read(&extent, 1, ec));
	REFUSES(no_pass.ack(extent, ec));
	REFUSES(no_pass.finish(0, ec));
	static_assert(noexcept(dirtylog::log::open(-1, dirtylog::options(), ec)));
	CHECK(!dirtylog::log::open(-1, dirtylog::options(), ec) && ec.value() == EBADF);
	CHECK((dirtylog::probe(-1, dirtylog::options(), ec, text, sizeof(text)), ec));
	CHECK(ec.value() == EBADF && *text && *text != '?');
	ec.clear();
	REFUSES(no_pass.each(ec).begin());
}

/* As in test_throwing.cpp, of which this is the other half. */
void a_limited_vcpu_pauses_and_a_plan_advises()
{
	in_modes([](rig &rig) {
		auto cursor = new_cursor(rig, DL_CURSOR_SKIP_REWRITTEN);
		const bool is_ring = rig.log.config(rig.ec).mode == DL_MODE_RING;
		dirtylog::goal goal;
		std::uint64_t cookie = 0;

		rig.vcpu.limit(4096, rig.ec);
		CHECK(!rig.ec == is_ring);
		CHECK(is_ring || rig.ec == std::errc::operation_not_supported);
		auto pass = cursor.harvest(0, rig.ec);
		for (const auto &extent : pass.each(rig.ec))
			CHECK(extent.bytes);
		pass.finish(DL_END_COMMIT, rig.ec);
		CHECK(!rig.ec);
		rig.guest->start(rig.vcpu);
		rig.guest->write_some();
		rig.guest->stop();
		CHECK((rig.log.reap(DL_REAP_NOW, rig.ec), !rig.ec));
		CHECK(rig.log.kicks(&cookie, 1, rig.ec) == is_ring && !rig.ec);
		CHECK(cookie == (is_ring ? 7 : 0));
		CHECK((rig.vcpu.pause_due(rig.ec) > 0) == is_ring && !rig.ec);
		goal.flags = DL_GOAL_ADVISE;
		auto plan = cursor.new_plan(goal, rig.ec);
		CHECK(plan && !rig.ec);
		CHECK(!cursor.new_plan(goal, rig.ec));
		CHECK(rig.ec == std::errc::device_or_resource_busy);
		CHECK((plan.sent(4096, 1000000, rig.ec), !rig.ec));
		CHECK(plan.next(0, rig.ec).again_ns > 0 && !rig.ec);
	});
}

void every_call_does_its_work()
{
	in_modes([](rig &rig) {
		auto cursor = new_cursor(rig, DL_CURSOR_CLEAN);
		std::uint64_t words[guest::memory_bytes / 4096 / 64] = {};
		const std::uint32_t take = DL_TAKE_HARVEST | DL_TAKE_PAUSED | DL_TAKE_NO_CLEAR;
		const std::uint64_t page = rig.guest->page_bytes;
		iovec iov = { rig.guest->memory + 8 * page, 2 * page };
		dirtylog::bitmap foreign;
		std::uint64_t word = 2;
		char text[200] = "";

		cursor.take(0, take, words, std::size(words), rig.ec);
		std::fill(std::begin(words), std::end(words), 0);
		CHECK((rig.log.mark_gpa(0, page, 1, rig.ec), !rig.ec));
		CHECK((rig.log.mark_slot(0, 3 * page, page, rig.ec), !rig.ec));
		CHECK((rig.log.mark_hva(rig.guest->memory + 5 * page, page, rig.ec), !rig.ec));
		CHECK((rig.log.mark_iov(&iov, 1, page, page, rig.ec), !rig.ec));
		foreign.flags = DL_BITMAP_TAKE;
		foreign.gpa = 10 * page;
		foreign.bytes = 64 * page;
		foreign.page_bytes = page;
		CHECK(rig.log.mark_bitmap(foreign, &word, 1, rig.ec) == page && !rig.ec && !word);
		CHECK(cursor.take(0, take, words, std::size(words), rig.ec) == 5 * page);
		CHECK(!rig.ec && words[0] == (1 << 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 11));
		CHECK((rig.log.clear(0, 0, rig.guest->memory_bytes, rig.ec), !rig.ec));
		CHECK(cursor.stats(rig.ec).acked_bytes >= 4 * page && !rig.ec);
		CHECK(rig.log.describe(text, sizeof(text)) > 0 && *text);
		CHECK(rig.log.last_error(text, sizeof(text)) == 0 && !*text);
		CHECK(rig.log.fd(rig.ec) >= 0 && !rig.ec);
		rig.guest->start(rig.vcpu);
		rig.guest->write_some();
		rig.guest->stop();
		CHECK((rig.vcpu.drain(rig.ec), !rig.ec));
		const auto entries = rig.log.stats(rig.ec).entries;
		CHECK(!rig.ec);
		CHECK(rig.vcpu.stats(rig.ec).entries == entries && !rig.ec);
		if (rig.log.config(rig.ec).mode == DL_MODE_RING)
			CHECK(entries && rig.log.reap(DL_REAP_NOW, rig.ec) < UINT64_MAX);
		CHECK(!rig.ec);
		CHECK(rig.slot.release());
		CHECK((rig.log.remove(0, DL_REMOVE_PAUSED, nullptr, 0, rig.ec), !rig.ec));
	});
}

const test tests[] = {
	{ "a_copy_by_a_range_is_equal_and_the_proof_finds_a_lost_extent",
	  a_copy_by_a_range_is_equal_and_the_proof_finds_a_lost_extent },
	{ "a_copy_by_arrays_is_equal_and_the_proof_finds_a_lost_extent",
	  a_copy_by_arrays_is_equal_and_the_proof_finds_a_lost_extent },
	{ "every_call_returns_a_code", every_call_returns_a_code },
	{ "a_limited_vcpu_pauses_and_a_plan_advises", a_limited_vcpu_pauses_and_a_plan_advises },
	{ "every_call_does_its_work", every_call_does_its_work },
};

} // namespace

int main()
{
	if (const char *reason = no_guest()) {
		std::printf("skip: %s\n", reason);
		return 77;
	}
	return run_all(tests);
}
