/* SPDX-License-Identifier: MIT */
/* The half of dirtylog.hpp that throws. */
#include "precopy.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <poll.h>
#if __cplusplus >= 202002L
#include <ranges>
#endif
#include <sys/mman.h>
#include <sys/uio.h>
#include <type_traits>
#include <unistd.h>

static std::atomic<unsigned long> allocations;

void *operator new(std::size_t bytes)
{
	allocations++;
	if (void *memory = std::malloc(bytes))
		return memory;
	throw std::bad_alloc();
}

void operator delete(void *memory) noexcept
{
	std::free(memory);
}

void operator delete(void *memory, std::size_t) noexcept
{
	std::free(memory);
}

namespace
{

constexpr dl_mode modes[] = { DL_MODE_RING, DL_MODE_BITMAP };

template <class Handle> constexpr bool only_moves()
{
	return std::is_nothrow_move_constructible_v<Handle> &&
	       std::is_nothrow_move_assignable_v<Handle> && !std::is_copy_constructible_v<Handle> &&
	       !std::is_copy_assignable_v<Handle>;
}

static_assert(only_moves<dirtylog::log>() && only_moves<dirtylog::vcpu>());
static_assert(only_moves<dirtylog::cursor>() && only_moves<dirtylog::pass>());
static_assert(only_moves<dirtylog::memslot>());
#ifdef __cpp_lib_ranges
static_assert(std::ranges::input_range<dirtylog::pass>);
#endif
static_assert(std::is_base_of_v<std::system_error, dirtylog::error>);
static_assert(std::is_nothrow_copy_constructible_v<dirtylog::error>);

dirtylog::slot slot_of(const guest &guest, std::uint32_t number = 0, std::uint64_t gpa = 0)
{
	dirtylog::slot slot;

	slot.slot = number;
	slot.gpa = gpa;
	slot.bytes = guest.memory_bytes;
	slot.hva = reinterpret_cast<std::uintptr_t>(guest.memory);
	slot.cookie = 5;
	return slot;
}

struct rig {
	std::unique_ptr<::guest> guest = new_guest();
	dirtylog::log log;
	dirtylog::memslot slot;
	dirtylog::vcpu vcpu;
};

/* Calls test(rig) in each mode that this kernel has. */
template <class Test> void in_modes(Test test)
{
	for (dl_mode mode : modes) {
		rig rig;
		dirtylog::options options;

		options.mode = mode;
		options.os = rig.guest->os();
		options.ring_entries = rig.guest->ring_entries();
		try {
			rig.log = dirtylog::log::open(rig.guest->vm(), options);
		} catch (const dirtylog::error &error) {
			CHECK(error.code() == std::errc::operation_not_supported);
			CHECK(mode == DL_MODE_RING);
			continue;
		}
		rig.slot = rig.log.add_slot(slot_of(*rig.guest));
		rig.vcpu = rig.log.add_vcpu(rig.guest->create_vcpu(), 7);
		test(rig);
	}
}

dirtylog::cursor clean_cursor(dirtylog::log &log)
{
	dirtylog::cursor_options options;

	options.flags = DL_CURSOR_CLEAN;
	return log.new_cursor(options);
}

/* The code of the error that a function throws. */
template <class Function> std::error_code code_of(Function function)
{
	try {
		function();
	} catch (const dirtylog::error &error) {
		return error.code();
	}
	return {};
}

void a_copy_is_equal_and_the_proof_finds_a_lost_extent()
{
	in_modes([](rig &rig) {
		auto cursor = rig.log.new_cursor();

		prove(*rig.guest, rig.vcpu, [&](std::uint32_t flags, receiver &receiver) {
			auto pass = cursor.harvest(flags);

			for (const auto &extent : pass) {
				receiver.receive(extent, flags & DL_HARVEST_PAUSED);
				pass.ack(extent);
			}
			return pass.pending_bytes();
		});
		CHECK(cursor.stats().pending_bytes == 0);
		CHECK(cursor.stats().passes > 10);
		if (rig.guest->ring_entries() && rig.log.config().mode == DL_MODE_RING)
			CHECK(rig.vcpu.stats().full_exits > 0);
	});
}

void an_error_has_a_code_and_words()
{
	in_modes([](rig &rig) {
		auto wrong = slot_of(*rig.guest, 1, 1);

		try {
			rig.log.set(wrong);
			FAIL("it accepts an address that is not aligned");
		} catch (const std::system_error &caught) {
			auto error = dynamic_cast<const dirtylog::error &>(caught);

			CHECK(error.code() == std::errc::invalid_argument);
			CHECK(std::strstr(error.why(), "gpa"));
			CHECK(rig.log.last_error() == error.why());
			CHECK(!std::strcmp(error.call(), "dl_slot_set"));
			CHECK(std::strstr(error.what(), error.why()));
		}
	});
	try {
		dirtylog::probe(STDIN_FILENO);
		FAIL("it accepts the standard input");
	} catch (const dirtylog::error &error) {
		CHECK(error.code().value() == EBADF && *error.why());
	}
}

void probe_foresees_the_configuration()
{
	auto guest = new_guest();
	dirtylog::options options;

	options.os = guest->os();
	auto would_be = dirtylog::probe(guest->vm(), options);
	auto log = dirtylog::log::open(guest->vm(), options);
	auto config = log.config();

	CHECK(!std::memcmp(&config, &would_be, sizeof(config)));
	CHECK(log.describe().find(config.mode == DL_MODE_RING ? "ring" : "bitmap") !=
	      std::string::npos);
	CHECK(log.last_error().empty());
	CHECK(dirtylog::library_version() == dirtylog::binding_version);
}

void a_pass_that_ends_makes_pending_what_was_not_acknowledged()
{
	in_modes([](rig &rig) {
		const std::uint64_t page = rig.guest->page_bytes;
		dirtylog::cursor_options options;

		options.max_extent_bytes = page;
		options.vcpus = 1;
		auto cursor = rig.log.new_cursor(options);
		{
			auto pass = cursor.harvest(DL_HARVEST_PAUSED);
			dirtylog::extent array[16];

			CHECK(pass.pending_bytes() == rig.guest->memory_bytes);
			auto extents = pass.read(array);
			CHECK(extents && extents.count() == 16 && extents.begin()->cookie == 5);
			CHECK(dirtylog::data(array[3]) == rig.guest->memory + 3 * page);
			pass.ack(extents);
			CHECK(pass.read(array).count() == 16); /* not acknowledged */
			auto moved = std::move(pass);
			CHECK(moved && !pass);
		}
		{
			auto pass = cursor.harvest(DL_HARVEST_PAUSED);

			CHECK(pass.pending_bytes() == rig.guest->memory_bytes - 16 * page);
			for (const auto &extent : pass)
				if (extent.offset_bytes == 18 * page)
					break;
			pass.finish(DL_END_COMMIT);
			CHECK(!pass);
		}
		CHECK(cursor.harvest(0).pending_bytes() == rig.guest->memory_bytes - 19 * page);
		auto pass = cursor.harvest(DL_HARVEST_PAUSED | DL_HARVEST_ALL);
		CHECK(pass.pending_bytes() == rig.guest->memory_bytes);
		CHECK(rig.log.stats().late_marks == 0);
		rig.log.mark_gpa(0, 0, 1);
		CHECK(rig.log.stats().late_marks == 1);
		CHECK(code_of([&] { static_cast<void>(cursor.harvest()); }) ==
		      std::errc::device_or_resource_busy);
	});
}

void a_loop_that_fails_throws()
{
	dirtylog::pass none;

	CHECK(code_of([&] {
		      for (const auto &extent : none)
			      FAIL(extent.bytes ? "an extent of no pass" : "an empty one");
	      }) == std::errc::invalid_argument);
}

void marks_and_takes_agree()
{
	in_modes([](rig &rig) {
		const std::uint64_t page = rig.guest->page_bytes;
		std::uint64_t words[guest::memory_bytes / 4096 / 64] = {};
		auto cursor = clean_cursor(rig.log);
		iovec iov = { rig.guest->memory + 8 * page, 2 * page };
		dirtylog::bitmap foreign;
		std::uint64_t word = 1;

		/* What KVM has written itself. */
		CHECK(cursor.take(0, DL_TAKE_HARVEST | DL_TAKE_PAUSED, words, std::size(words)) <
		      4 * page);
		std::fill(std::begin(words), std::end(words), 0);
		rig.log.mark_gpa(0, page, 1);
		rig.log.mark_slot(0, 3 * page, page);
		rig.log.mark_hva(rig.guest->memory + 5 * page, page);
		rig.log.mark_iov(&iov, 1, page, page);
		foreign.gpa = 10 * page;
		foreign.bytes = foreign.page_bytes = page;
		CHECK(rig.log.mark_bitmap(foreign, &word, 1) == page && word == 1);
		CHECK(code_of([&] { rig.log.mark_bitmap(foreign, &word, 0); }) ==
		      std::errc::invalid_argument);
		CHECK(cursor.take(0, DL_TAKE_HARVEST | DL_TAKE_PAUSED | DL_TAKE_NO_CLEAR, words,
				  std::size(words)) == 5 * page);
		rig.log.clear(0, 0, rig.guest->memory_bytes);
		CHECK(code_of([&] { rig.log.clear(0, 0, rig.guest->memory_bytes + page); }) ==
		      std::errc::invalid_argument);
		CHECK(words[0] == (1 << 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 10));
	});
}

/* More than a page a second: the vCPU must pause, until the limit is lifted. */
void a_limited_vcpu_is_kicked_and_pauses()
{
	in_modes([](rig &rig) {
		auto cursor = rig.log.new_cursor();
		std::uint64_t cookies[4];

		if (rig.log.config().mode != DL_MODE_RING) {
			CHECK(code_of([&] { rig.vcpu.limit(1); }) ==
			      std::errc::operation_not_supported);
			CHECK(rig.vcpu.pause_due() == 0 && rig.log.kicks(cookies, 4) == 0);
			return;
		}
		rig.vcpu.limit(4096);
		rig.guest->start(rig.vcpu);
		rig.guest->write_some();
		rig.guest->stop();
		/* What was pending from the beginning is not new. */
		{
			auto pass = cursor.harvest();

			for (const auto &extent : pass)
				pass.ack(extent);
		}
		rig.guest->start(rig.vcpu);
		rig.guest->write_some();
		rig.guest->stop();
		rig.log.reap(DL_REAP_NOW);
		CHECK(rig.log.kicks(cookies, 4) == 1);
		CHECK(rig.vcpu.pause_due() > 0);
		CHECK(rig.log.stats().limited_vcpus == 1);
		rig.vcpu.limit(0);
		CHECK(rig.vcpu.pause_due() == 0);
	});
}

void a_plan_advises()
{
	in_modes([](rig &rig) {
		auto cursor = rig.log.new_cursor();
		dirtylog::goal goal;

		goal.total_ns = 60000000000;
		auto plan = cursor.new_plan(goal);
		CHECK(code_of([&] { auto second = cursor.new_plan(); }) ==
		      std::errc::device_or_resource_busy);
		plan.sent(4096, 1000000);
		const auto advice = plan.next();
		CHECK(advice.verdict == DL_VERDICT_CONTINUE && advice.again_ns > 0);
		CHECK(advice.pending_bytes >= rig.guest->memory_bytes);
		goal.least_run_ppm = 1000001;
		plan = dirtylog::plan();
		CHECK(code_of([&] { auto bad = cursor.new_plan(goal); }) ==
		      std::errc::invalid_argument);
	});
}

void a_slot_goes_with_its_object()
{
	in_modes([](rig &rig) {
		const auto alias = slot_of(*rig.guest, 1, 1ull << 32);
		std::uint64_t words[guest::memory_bytes / 4096 / 64] = {};
		auto cursor = rig.log.new_cursor();
		std::error_code ec;

		{
			auto added = rig.log.add_slot(alias);
			auto moved = std::move(added);

			CHECK(moved && !added && moved.number() == 1);
			rig.log.mark_gpa(0, alias.gpa, 1);
		}
		rig.log.mark_gpa(0, alias.gpa, 1, ec);
		CHECK(ec == std::errc::no_such_file_or_directory);
		CHECK(rig.log.add_slot(alias).release() == rig.log.get());
		rig.log.remove(1, 0, words, std::size(words));
		CHECK(words[0] == UINT64_MAX);
	});
}

/* The guest's own memory is no alias; what the VMM writes through one is found. */
void a_watch_finds_what_the_vmm_writes()
{
	in_modes([](rig &rig) {
		const std::size_t bytes = guest::memory_bytes, page = rig.guest->page_bytes;
		const int fd = memfd_create("ram", MFD_CLOEXEC);
		std::error_code ec;

		if (!(rig.log.config().has & DL_HAS_WATCH))
			return;
		CHECK(!ftruncate(fd, static_cast<off_t>(bytes)));
		auto *memory = static_cast<std::byte *>(
			mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
		auto *alias = static_cast<std::byte *>(
			mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
		{
			auto slot = slot_of(*rig.guest, 1, 1ull << 32);

			slot.hva = reinterpret_cast<std::uintptr_t>(memory);
			auto added = rig.log.add_slot(slot);
			rig.log.watch(1, memory, 0, ec);
			CHECK(ec == std::errc::invalid_argument);
			rig.log.watch(1, alias, DL_WATCH_AUDIT);
			dirtylog::cursor_options clean, missed;

			clean.flags = DL_CURSOR_CLEAN;
			missed.flags = DL_CURSOR_MISSED;
			auto cursor = rig.log.new_cursor(clean);
			auto audit = rig.log.new_cursor(missed);
			alias[5 * page] = std::byte{ 1 };
			rig.guest->vmm_wrote(alias + 5 * page, 1);
			for (auto *each : { &cursor, &audit }) {
				auto pass = each->harvest();
				unsigned int n = 0;

				for (const auto &extent : pass)
					n += extent.gpa == slot.gpa + 5 * page &&
					     extent.bytes == page;
				CHECK(n == 1);
			}
			rig.log.watch(1, nullptr);
		}
		munmap(memory, bytes);
		munmap(alias, bytes);
		close(fd);
	});
}

void the_descriptor_becomes_readable()
{
	in_modes([](rig &rig) {
		CHECK(rig.log.reap() == UINT64_MAX);
		if (rig.log.config().mode == DL_MODE_BITMAP)
			return; /* never readable */
		auto cursor = rig.log.new_cursor();
		pollfd readable = { rig.log.fd(), POLLIN, 0 };

		CHECK(poll(&readable, 1, 10000) == 1);
		rig.guest->start(rig.vcpu);
		rig.guest->write_some();
		rig.guest->stop();
		CHECK(rig.log.reap(DL_REAP_NOW) < UINT64_MAX);
		CHECK(rig.log.stats().entries > 0);
		rig.vcpu.drain();
		CHECK(rig.vcpu.stats().entries == rig.log.stats().entries);
	});
}

void passes_allocate_nothing()
{
	in_modes([](rig &rig) {
		auto cursor = rig.log.new_cursor();
		const unsigned long before = allocations;
		unsigned int n = 0;

		for (std::uint32_t flags : { 0u, 2u, 1u }) {
			auto pass = cursor.harvest(flags);
			dirtylog::extent array[4];

			for (const auto &extent : pass) {
				pass.ack(extent);
				n++;
			}
			pass.ack(pass.read(array));
			rig.log.mark_gpa(0, 0, 1);
			rig.log.reap();
			rig.vcpu.drain();
			pass.finish(DL_END_COMMIT);
		}
		CHECK(n >= 2);
		CHECK(allocations == before);
	});
}

const test tests[] = {
	{ "a_copy_is_equal_and_the_proof_finds_a_lost_extent",
	  a_copy_is_equal_and_the_proof_finds_a_lost_extent },
	{ "an_error_has_a_code_and_words", an_error_has_a_code_and_words },
	{ "probe_foresees_the_configuration", probe_foresees_the_configuration },
	{ "a_pass_that_ends_makes_pending_what_was_not_acknowledged",
	  a_pass_that_ends_makes_pending_what_was_not_acknowledged },
	{ "a_loop_that_fails_throws", a_loop_that_fails_throws },
	{ "marks_and_takes_agree", marks_and_takes_agree },
	{ "a_limited_vcpu_is_kicked_and_pauses", a_limited_vcpu_is_kicked_and_pauses },
	{ "a_plan_advises", a_plan_advises },
	{ "a_slot_goes_with_its_object", a_slot_goes_with_its_object },
	{ "a_watch_finds_what_the_vmm_writes", a_watch_finds_what_the_vmm_writes },
	{ "the_descriptor_becomes_readable", the_descriptor_becomes_readable },
	{ "passes_allocate_nothing", passes_allocate_nothing },
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
