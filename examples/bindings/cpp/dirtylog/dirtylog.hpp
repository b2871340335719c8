/* SPDX-License-Identifier: MIT */
#ifndef DIRTYLOG_DIRTYLOG_HPP
#define DIRTYLOG_DIRTYLOG_HPP

/*
 * dirtylog.h for C++17: handles that release themselves, passes that are ranges of extents, errors
 * that are exceptions or std::error_code. Constants, flags and THE PROMISE are those of dirtylog.h,
 * which is the reference of each call.
 *
 *	auto log = dirtylog::log::open(vm_fd);
 *	log.set(slot);
 *	auto vcpu = log.add_vcpu(vcpu_fd);
 *	auto cursor = log.new_cursor();
 *	{
 *		auto pass = cursor.harvest();
 *		for (const auto &extent : pass) {
 *			send(extent.gpa, dirtylog::data(extent), extent.bytes);
 *			pass.ack(extent);
 *		}
 *	}
 *
 * Each call exists twice. With a std::error_code as its last argument it is noexcept, and works
 * with -fno-exceptions; the code is of std::generic_category(), so it compares with std::errc.
 * Without, it throws dirtylog::error. Nothing allocates but an exception and what returns a string.
 *
 * A log outlives its vcpus, cursors and memslots, a cursor its pass. Moving any of them is allowed.
 */

#include <dirtylog/dirtylog.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

/* Files with and without exceptions in one program have functions of the same names. */
#ifdef __cpp_exceptions
#define DIRTYLOG_INLINE_NAMESPACE with_exceptions
#else
#define DIRTYLOG_INLINE_NAMESPACE without_exceptions
#endif

namespace dirtylog
{
inline namespace DIRTYLOG_INLINE_NAMESPACE
{

inline constexpr std::uint32_t binding_version = 0 << 16 | 2 << 8 | 0;
static_assert(binding_version == DL_VERSION, "dirtylog.hpp and dirtylog.h are of two releases");

/* A struct of dirtylog.h whose size is set and whose other fields are 0. */
template <class Struct> struct sized : Struct {
	sized() noexcept : Struct{} { this->size = sizeof(Struct); }
};

using options = sized<struct dl_options>;
using config = sized<struct dl_config>;
using slot = sized<struct dl_slot>;
using cursor_options = sized<struct dl_cursor_options>;
using bitmap = sized<struct dl_bitmap>;
using cursor_stats = sized<struct dl_cursor_stats>;
using stats = sized<struct dl_stats>;
using goal = sized<struct dl_goal>;
using advice = sized<struct dl_advice>;
using extent = dl_extent;

/* The first byte of an extent. The guest writes it on while it runs. */
inline std::byte *data(const extent &extent) noexcept
{
	return reinterpret_cast<std::byte *>(static_cast<std::uintptr_t>(extent.hva));
}

/* Extents in an array of the caller. */
class [[nodiscard]] extents
{
public:
	extents(const extent *first, std::uint32_t n) noexcept : first_(first), n_(n) {}
	const extent *begin() const noexcept { return first_; }
	const extent *end() const noexcept { return first_ + n_; }
	std::uint32_t count() const noexcept { return n_; }
	explicit operator bool() const noexcept { return n_ != 0; }

private:
	const extent *first_;
	std::uint32_t n_;
};

inline std::error_code to_code(int result) noexcept
{
	return { result < 0 ? -result : 0, std::generic_category() };
}

/* Returns the result of a call, or 0 after a failure. */
inline unsigned int result_or(int result, std::error_code &ec) noexcept
{
	ec = to_code(result);
	return result < 0 ? 0 : static_cast<unsigned int>(result);
}

#ifdef __cpp_exceptions
/* A call failed. */
class error : public std::system_error
{
public:
	error(std::error_code code, const char *call, std::string why)
	    : std::system_error(code, why.empty() ? call : std::string(call) + ": " + why),
	      call_(call), why_(std::make_shared<const std::string>(std::move(why)))
	{
	}
	const char *call() const noexcept /* the C function */ { return call_; }
	const char *why() const noexcept /* in words; empty: there are none */
	{
		return why_->c_str();
	}

private:
	const char *call_;
	std::shared_ptr<const std::string> why_; /* an exception is copied without throwing */
};

/* A text that a function writes as snprintf(3) does. */
template <class Function> std::string text_of(Function function, const dl_log *log)
{
	std::string text;
	int length = function(log, nullptr, 0);

	while (length > 0 && text.size() <= static_cast<std::size_t>(length)) {
		text.resize(static_cast<std::size_t>(length) + 1);
		length = function(log, text.data(), text.size());
	}
	text.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
	return text;
}

inline void check(const std::error_code &ec, const dl_log *log, const char *call)
{
	if (ec)
		throw error(ec, call, text_of(dl_log_last_error, log));
}
#endif

template <class Struct, void (*release)(Struct *)> struct releaser {
	void operator()(Struct *handle) const noexcept { release(handle); }
};
template <class Struct, void (*release)(Struct *)>
using handle = std::unique_ptr<Struct, releaser<Struct, release>>;

/* A vCPU as a source: log::add_vcpu(). Not in KVM_RUN when this is destroyed. */
class [[nodiscard]] vcpu
{
public:
	vcpu() noexcept = default;
	vcpu(dl_vcpu *vcpu, const dl_log *log) noexcept : vcpu_(vcpu), log_(log) {}
	explicit operator bool() const noexcept { return vcpu_ != nullptr; }
	dl_vcpu *get() const noexcept { return vcpu_.get(); }
	void drain(std::error_code &ec) noexcept { ec = to_code(dl_vcpu_drain(get(), 0)); }
	dirtylog::stats stats(std::error_code &ec) const noexcept
	{
		dirtylog::stats stats;

		ec = to_code(dl_vcpu_stats(get(), &stats));
		return stats;
	}

	/* How fast it may dirty new memory; 0: no limit. */
	void limit(std::uint64_t bytes_per_s, std::error_code &ec) noexcept
	{
		ec = to_code(dl_vcpu_limit(get(), bytes_per_s));
	}

	/* Nanoseconds to stay out of KVM_RUN; for the thread that runs the vCPU. */
	std::uint64_t pause_due(std::error_code &ec) noexcept
	{
		std::uint64_t pause_ns = 0;

		ec = to_code(dl_vcpu_pause_due(get(), &pause_ns));
		return pause_ns;
	}
#ifdef __cpp_exceptions
	void drain()
	{
		std::error_code ec;

		drain(ec);
		check(ec, log_, "dl_vcpu_drain");
	}
	dirtylog::stats stats() const
	{
		std::error_code ec;
		auto stats = this->stats(ec);

		check(ec, log_, "dl_vcpu_stats");
		return stats;
	}
	void limit(std::uint64_t bytes_per_s)
	{
		std::error_code ec;

		limit(bytes_per_s, ec);
		check(ec, log_, "dl_vcpu_limit");
	}
	std::uint64_t pause_due()
	{
		std::error_code ec;
		auto pause_ns = pause_due(ec);

		check(ec, log_, "dl_vcpu_pause_due");
		return pause_ns;
	}
#endif

private:
	handle<dl_vcpu, dl_vcpu_remove> vcpu_;
	[[maybe_unused]] const dl_log *log_ = nullptr;
};

/*
 * The extents of a pass, each read when the loop comes to it and none ahead: DL_END_COMMIT after a
 * break commits only what the loop was given. With ec an error ends the loop and is found there.
 */
class extent_iterator
{
public:
	using iterator_category = std::input_iterator_tag;
	using value_type = extent;
	using difference_type = std::ptrdiff_t;
	using pointer = const extent *;
	using reference = const extent &;
	struct sentinel {
	};

	extent_iterator(dl_cursor *cursor, const dl_log *log, std::error_code *ec)
	    : cursor_(cursor), log_(log), ec_(ec)
	{
		++*this;
	}
	reference operator*() const noexcept { return extent_; }
	pointer operator->() const noexcept { return &extent_; }
	extent_iterator &operator++()
	{
		std::error_code code;

		more_ = result_or(dl_cursor_read(cursor_, &extent_, 1), code) != 0;
		if (ec_)
			*ec_ = code;
#ifdef __cpp_exceptions
		else
			check(code, log_, "dl_cursor_read");
#endif
		return *this;
	}
	void operator++(int)
	{
		++*this;
	}
	bool operator==(sentinel) const noexcept
	{
		return !more_;
	}
	bool operator!=(sentinel) const noexcept
	{
		return more_;
	}

private:
	dl_cursor *cursor_;
	[[maybe_unused]] const dl_log *log_;
	std::error_code *ec_;
	extent extent_{};
	bool more_ = false;
};

/* pass::each(ec) */
class extent_range
{
public:
	extent_range(dl_cursor *cursor, std::error_code &ec) noexcept : cursor_(cursor), ec_(&ec) {}
	extent_iterator begin() const noexcept { return { cursor_, nullptr, ec_ }; }
	extent_iterator::sentinel end() const noexcept { return {}; }

private:
	dl_cursor *cursor_;
	std::error_code *ec_;
};

/*
 * A pass: cursor::harvest(). Its end, or its destruction, makes pending again what was not
 * acknowledged. A cursor has one at a time.
 */
class [[nodiscard]] pass
{
public:
	pass() noexcept = default;
	pass(dl_cursor *cursor, const dl_log *log, std::uint64_t pending_bytes) noexcept
	    : cursor_(cursor), log_(log), pending_bytes_(pending_bytes)
	{
	}
	explicit operator bool() const noexcept { return cursor_ != nullptr; }
	std::uint64_t pending_bytes() const noexcept { return pending_bytes_; }

	/* Reads into an array of the caller, many extents a call. None: the pass has no more. */
	extents read(extent *array, std::uint32_t n, std::error_code &ec) noexcept
	{
		return { array, result_or(dl_cursor_read(cursor_.get(), array, n), ec) };
	}
	template <std::uint32_t n> extents read(extent (&array)[n], std::error_code &ec) noexcept
	{
		return read(array, n, ec);
	}

	/* for (const auto &extent : pass.each(ec)) ...; if (ec) ...; also without exceptions */
	extent_range each(std::error_code &ec) noexcept { return { cursor_.get(), ec }; }

	void ack(const extents &extents, std::error_code &ec) noexcept
	{
		ec = to_code(dl_cursor_ack(cursor_.get(), extents.begin(), extents.count()));
	}
	void ack(const extent &extent, std::error_code &ec) noexcept { ack({ &extent, 1 }, ec); }

	/* flags: 0 or DL_END_COMMIT. The pass is empty afterwards, also after an error. */
	void finish(std::uint32_t flags, std::error_code &ec) noexcept
	{
		ec = to_code(dl_cursor_end(cursor_.get(), flags));
		cursor_.release();
	}

#ifdef __cpp_exceptions
	extents read(extent *array, std::uint32_t n)
	{
		std::error_code ec;
		auto extents = read(array, n, ec);

		check(ec, log_, "dl_cursor_read");
		return extents;
	}
	template <std::uint32_t n> extents read(extent (&array)[n])
	{
		return read(array, n);
	}

	extent_iterator begin()
	{
		return { cursor_.get(), log_, nullptr };
	}
	extent_iterator::sentinel end() noexcept
	{
		return {};
	}

	void ack(const extents &extents)
	{
		std::error_code ec;

		ack(extents, ec);
		check(ec, log_, "dl_cursor_ack");
	}
	void ack(const extent &extent)
	{
		ack(extents(&extent, 1));
	}
	void finish(std::uint32_t flags = 0)
	{
		std::error_code ec;

		finish(flags, ec);
		check(ec, log_, "dl_cursor_end");
	}
#endif

private:
	struct ender {
		void operator()(dl_cursor *cursor) const noexcept { dl_cursor_end(cursor, 0); }
	};
	std::unique_ptr<dl_cursor, ender> cursor_;
	[[maybe_unused]] const dl_log *log_ = nullptr;
	std::uint64_t pending_bytes_ = 0;
};

/* Convergence control of a cursor: cursor::new_plan(). Its limits go with it. */
class [[nodiscard]] plan
{
public:
	plan() noexcept = default;
	plan(dl_plan *plan, const dl_log *log) noexcept : plan_(plan), log_(log) {}
	explicit operator bool() const noexcept { return plan_ != nullptr; }
	dl_plan *get() const noexcept { return plan_.get(); }

	/* The wire, busy for busy_ns, took bytes of guest memory; "zero" pages do not count. */
	void sent(std::uint64_t bytes, std::uint64_t busy_ns, std::error_code &ec) noexcept
	{
		ec = to_code(dl_plan_sent(get(), bytes, busy_ns));
	}

	/* Sets the vCPUs' limits. Call log::kicks() afterwards. */
	advice next(std::uint64_t unsent_bytes, std::error_code &ec) noexcept
	{
		advice advice;

		ec = to_code(dl_plan_next(get(), unsent_bytes, &advice));
		return advice;
	}

#ifdef __cpp_exceptions
	void sent(std::uint64_t bytes, std::uint64_t busy_ns)
	{
		std::error_code ec;

		sent(bytes, busy_ns, ec);
		check(ec, log_, "dl_plan_sent");
	}
	advice next(std::uint64_t unsent_bytes = 0)
	{
		std::error_code ec;
		auto advice = next(unsent_bytes, ec);

		check(ec, log_, "dl_plan_next");
		return advice;
	}
#endif

private:
	handle<dl_plan, dl_plan_free> plan_;
	[[maybe_unused]] const dl_log *log_ = nullptr;
};

/* A consumer: log::new_cursor(). The last cursor that goes switches logging off. */
class [[nodiscard]] cursor
{
public:
	cursor() noexcept = default;
	cursor(dl_cursor *cursor, const dl_log *log) noexcept : cursor_(cursor), log_(log) {}
	explicit operator bool() const noexcept { return cursor_ != nullptr; }
	dl_cursor *get() const noexcept { return cursor_.get(); }

	/* flags: DL_HARVEST_*. The pass is empty after an error. */
	pass harvest(std::uint32_t flags, std::error_code &ec) noexcept
	{
		std::uint64_t pending_bytes = 0;

		ec = to_code(dl_harvest(get(), flags, &pending_bytes));
		return ec ? pass() : pass(get(), log_, pending_bytes);
	}

	/* As pass::ack(), at any time, for threads that have no pass. */
	void ack(const extents &extents, std::error_code &ec) noexcept
	{
		ec = to_code(dl_cursor_ack(get(), extents.begin(), extents.count()));
	}

	/* Returns the bytes that were taken. flags: DL_TAKE_* */
	std::uint64_t take(std::uint32_t slot, std::uint32_t flags, std::uint64_t *words,
			   std::uint64_t n_words, std::error_code &ec) noexcept
	{
		std::uint64_t taken_bytes = 0;

		ec = to_code(dl_cursor_take(get(), slot, flags, words, n_words, &taken_bytes));
		return taken_bytes;
	}
	cursor_stats stats(std::error_code &ec) const noexcept
	{
		cursor_stats stats;

		ec = to_code(dl_cursor_stats(get(), &stats));
		return stats;
	}
	plan new_plan(const struct dl_goal &goal, std::error_code &ec) noexcept
	{
		dl_plan *made = nullptr;

		ec = to_code(dl_plan_new(get(), &goal, &made));
		return { made, log_ };
	}

#ifdef __cpp_exceptions
	pass harvest(std::uint32_t flags = 0)
	{
		std::error_code ec;
		auto pass = harvest(flags, ec);

		check(ec, log_, "dl_harvest");
		return pass;
	}
	void ack(const extents &extents)
	{
		std::error_code ec;

		ack(extents, ec);
		check(ec, log_, "dl_cursor_ack");
	}
	std::uint64_t take(std::uint32_t slot, std::uint32_t flags, std::uint64_t *words,
			   std::uint64_t n_words)
	{
		std::error_code ec;
		auto taken_bytes = take(slot, flags, words, n_words, ec);

		check(ec, log_, "dl_cursor_take");
		return taken_bytes;
	}
	cursor_stats stats() const
	{
		std::error_code ec;
		auto stats = this->stats(ec);

		check(ec, log_, "dl_cursor_stats");
		return stats;
	}
	plan new_plan(const struct dl_goal &goal = dirtylog::goal())
	{
		std::error_code ec;
		auto made = new_plan(goal, ec);

		check(ec, log_, "dl_plan_new");
		return made;
	}
#endif

private:
	handle<dl_cursor, dl_cursor_free> cursor_;
	[[maybe_unused]] const dl_log *log_ = nullptr;
};

/* A memslot that goes with this object: log::add_slot(). Errors of the destructor are ignored. */
class [[nodiscard]] memslot
{
public:
	memslot() noexcept = default;
	memslot(dl_log *log, std::uint32_t number) noexcept : log_(log), number_(number) {}
	memslot(memslot &&from) noexcept : log_(from.release()), number_(from.number_) {}
	memslot &operator=(memslot &&from) noexcept
	{
		std::swap(log_, from.log_);
		std::swap(number_, from.number_);
		return *this;
	}
	~memslot()
	{
		if (log_)
			static_cast<void>(!dl_slot_remove(log_, number_, 0, nullptr, 0));
	}
	explicit operator bool() const noexcept { return log_ != nullptr; }
	std::uint32_t number() const noexcept { return number_; }

	/* Leaves the slot in the guest. */
	dl_log *release() noexcept { return std::exchange(log_, nullptr); }

private:
	dl_log *log_ = nullptr;
	std::uint32_t number_ = 0;
};

/* The dirty log of one VM. */
class [[nodiscard]] log
{
public:
	log() noexcept = default;

	/* Writes the reason of a choice or a failure to why, if that is not null. */
	static log open(int vm_fd, const struct dl_options &options, std::error_code &ec,
			char *why = nullptr, std::size_t why_bytes = 0) noexcept
	{
		dl_log *opened = nullptr;

		ec = to_code(dl_log_open(vm_fd, &options, &opened, why, why_bytes));
		return log(opened);
	}
	explicit operator bool() const noexcept { return log_ != nullptr; }
	dl_log *get() const noexcept { return log_.get(); }

	dirtylog::config config(std::error_code &ec) const noexcept
	{
		dirtylog::config config;

		ec = to_code(dl_log_config(get(), &config));
		return config;
	}
	dirtylog::stats stats(std::error_code &ec) const noexcept
	{
		dirtylog::stats stats;

		ec = to_code(dl_log_stats(get(), &stats));
		return stats;
	}

	/* Both write as snprintf(3) does, and return what it does. */
	int describe(char *text, std::size_t bytes) const noexcept
	{
		return dl_log_describe(get(), text, bytes);
	}
	int last_error(char *text, std::size_t bytes) const noexcept
	{
		return dl_log_last_error(get(), text, bytes);
	}

	/* The guest has slot.hva as its memory until the slot is removed. */
	void set(const struct dl_slot &slot, std::error_code &ec) noexcept
	{
		ec = to_code(dl_slot_set(get(), &slot));
	}
	memslot add_slot(const struct dl_slot &slot, std::error_code &ec) noexcept
	{
		set(slot, ec);
		return ec ? memslot() : memslot(get(), slot.slot);
	}
	void remove(std::uint32_t slot, std::uint32_t flags, std::uint64_t *words,
		    std::uint64_t n_words, std::error_code &ec) noexcept
	{
		ec = to_code(dl_slot_remove(get(), slot, flags, words, n_words));
	}
	void clear(std::uint32_t slot, std::uint64_t offset_bytes, std::uint64_t bytes,
		   std::error_code &ec) noexcept
	{
		ec = to_code(dl_slot_clear(get(), slot, offset_bytes, bytes));
	}

	/* alias stays mapped until the watch ends, by nullptr or with the slot. */
	void watch(std::uint32_t slot, void *alias, std::uint32_t flags,
		   std::error_code &ec) noexcept
	{
		ec = to_code(dl_slot_watch(get(), slot, alias, flags));
	}

	vcpu add_vcpu(int vcpu_fd, std::uint64_t cookie, std::error_code &ec) noexcept
	{
		dl_vcpu *added = nullptr;

		ec = to_code(dl_vcpu_add(get(), vcpu_fd, cookie, 0, &added));
		return vcpu(added, get());
	}
	cursor new_cursor(const struct dl_cursor_options &options, std::error_code &ec) noexcept
	{
		dl_cursor *made = nullptr;

		ec = to_code(dl_cursor_new(get(), &options, &made));
		return cursor(made, get());
	}

	/* The log's own descriptor, readable when reap() has work. */
	int fd(std::error_code &ec) noexcept
	{
		int fd = dl_log_fd(get());

		ec = to_code(fd);
		return ec ? -1 : fd;
	}

	/* Returns when to call again, in nanoseconds; UINT64_MAX: not before a cursor exists. */
	std::uint64_t reap(std::uint32_t flags, std::error_code &ec) noexcept
	{
		std::uint64_t again_ns = UINT64_MAX;

		ec = to_code(dl_log_reap(get(), flags, &again_ns));
		return again_ns;
	}

	/* The cookies of vCPUs that must leave KVM_RUN, or a pause; returns how many. */
	std::uint32_t kicks(std::uint64_t *cookies, std::uint32_t max_cookies,
			    std::error_code &ec) noexcept
	{
		return result_or(dl_log_kicks(get(), cookies, max_cookies), ec);
	}

	/* Write, then mark, then notify the guest. */
	void mark_gpa(std::uint32_t as_id, std::uint64_t gpa, std::uint64_t bytes,
		      std::error_code &ec) noexcept
	{
		ec = to_code(dl_mark_gpa(get(), as_id, gpa, bytes));
	}
	void mark_slot(std::uint32_t slot, std::uint64_t offset_bytes, std::uint64_t bytes,
		       std::error_code &ec) noexcept
	{
		ec = to_code(dl_mark_slot(get(), slot, offset_bytes, bytes));
	}
	void mark_hva(const void *address, std::uint64_t bytes, std::error_code &ec) noexcept
	{
		ec = to_code(dl_mark_hva(get(), address, bytes));
	}
	void mark_iov(const iovec *iov, std::uint32_t n_iov, std::uint64_t offset_bytes,
		      std::uint64_t bytes, std::error_code &ec) noexcept
	{
		ec = to_code(dl_mark_iov(get(), iov, n_iov, offset_bytes, bytes));
	}
	/* The bytes of host pages that were marked, also if a bit's page is in no slot. */
	std::uint64_t mark_bitmap(const struct dl_bitmap &bitmap, std::uint64_t *words,
				  std::uint64_t n_words, std::error_code &ec) noexcept
	{
		std::uint64_t marked_bytes = 0;

		ec = to_code(dl_mark_bitmap(get(), &bitmap, words, n_words, &marked_bytes));
		return marked_bytes;
	}

#ifdef __cpp_exceptions
	static log open(int vm_fd, const struct dl_options &options = dirtylog::options())
	{
		std::error_code ec;
		char why[512] = "";
		auto opened = open(vm_fd, options, ec, why, sizeof(why));

		if (ec)
			throw error(ec, "dl_log_open", why);
		return opened;
	}
	dirtylog::config config() const
	{
		std::error_code ec;
		auto config = this->config(ec);

		check(ec, get(), "dl_log_config");
		return config;
	}
	dirtylog::stats stats() const
	{
		std::error_code ec;
		auto stats = this->stats(ec);

		check(ec, get(), "dl_log_stats");
		return stats;
	}
	std::string describe() const
	{
		return text_of(dl_log_describe, get());
	}
	std::string last_error() const
	{
		return text_of(dl_log_last_error, get());
	}
	void set(const struct dl_slot &slot)
	{
		std::error_code ec;

		set(slot, ec);
		check(ec, get(), "dl_slot_set");
	}
	memslot add_slot(const struct dl_slot &slot)
	{
		set(slot);
		return memslot(get(), slot.slot);
	}
	void remove(std::uint32_t slot, std::uint32_t flags = 0, std::uint64_t *words = nullptr,
		    std::uint64_t n_words = 0)
	{
		std::error_code ec;

		remove(slot, flags, words, n_words, ec);
		check(ec, get(), "dl_slot_remove");
	}
	void clear(std::uint32_t slot, std::uint64_t offset_bytes, std::uint64_t bytes)
	{
		std::error_code ec;

		clear(slot, offset_bytes, bytes, ec);
		check(ec, get(), "dl_slot_clear");
	}
	void watch(std::uint32_t slot, void *alias, std::uint32_t flags = 0)
	{
		std::error_code ec;

		watch(slot, alias, flags, ec);
		check(ec, get(), "dl_slot_watch");
	}
	vcpu add_vcpu(int vcpu_fd, std::uint64_t cookie = 0)
	{
		std::error_code ec;
		auto added = add_vcpu(vcpu_fd, cookie, ec);

		check(ec, get(), "dl_vcpu_add");
		return added;
	}
	cursor new_cursor(const struct dl_cursor_options &options = cursor_options())
	{
		std::error_code ec;
		auto made = new_cursor(options, ec);

		check(ec, get(), "dl_cursor_new");
		return made;
	}
	int fd()
	{
		std::error_code ec;
		int fd = this->fd(ec);

		check(ec, get(), "dl_log_fd");
		return fd;
	}
	std::uint64_t reap(std::uint32_t flags = 0)
	{
		std::error_code ec;
		auto again_ns = reap(flags, ec);

		check(ec, get(), "dl_log_reap");
		return again_ns;
	}
	std::uint32_t kicks(std::uint64_t *cookies, std::uint32_t max_cookies)
	{
		std::error_code ec;
		auto n = kicks(cookies, max_cookies, ec);

		check(ec, get(), "dl_log_kicks");
		return n;
	}
	void mark_gpa(std::uint32_t as_id, std::uint64_t gpa, std::uint64_t bytes)
	{
		std::error_code ec;

		mark_gpa(as_id, gpa, bytes, ec);
		check(ec, get(), "dl_mark_gpa");
	}
	void mark_slot(std::uint32_t slot, std::uint64_t offset_bytes, std::uint64_t bytes)
	{
		std::error_code ec;

		mark_slot(slot, offset_bytes, bytes, ec);
		check(ec, get(), "dl_mark_slot");
	}
	void mark_hva(const void *address, std::uint64_t bytes)
	{
		std::error_code ec;

		mark_hva(address, bytes, ec);
		check(ec, get(), "dl_mark_hva");
	}
	void mark_iov(const iovec *iov, std::uint32_t n_iov, std::uint64_t offset_bytes,
		      std::uint64_t bytes)
	{
		std::error_code ec;

		mark_iov(iov, n_iov, offset_bytes, bytes, ec);
		check(ec, get(), "dl_mark_iov");
	}
	std::uint64_t mark_bitmap(const struct dl_bitmap &bitmap, std::uint64_t *words,
				  std::uint64_t n_words)
	{
		std::error_code ec;
		auto marked_bytes = mark_bitmap(bitmap, words, n_words, ec);

		check(ec, get(), "dl_mark_bitmap");
		return marked_bytes;
	}
#endif

private:
	explicit log(dl_log *log) noexcept : log_(log) {}

	handle<dl_log, dl_log_close> log_;
};

/* The version of the linked library, encoded as DL_VERSION. */
inline std::uint32_t library_version() noexcept
{
	return dl_library_version();
}

/* What log::open() would choose on fd, /dev/kvm or a VM; why receives the reason in words. */
inline config probe(int fd, const struct dl_options &options, std::error_code &ec,
		    char *why = nullptr, std::size_t why_bytes = 0) noexcept
{
	config would_be;

	ec = to_code(dl_probe(fd, &options, &would_be, why, why_bytes));
	return would_be;
}

#ifdef __cpp_exceptions
inline config probe(int fd, const struct dl_options &options = dirtylog::options())
{
	std::error_code ec;
	char why[512] = "";
	auto would_be = probe(fd, options, ec, why, sizeof(why));

	if (ec)
		throw error(ec, "dl_probe", why);
	return would_be;
}
#endif

} // namespace DIRTYLOG_INLINE_NAMESPACE
} // namespace dirtylog

#undef DIRTYLOG_INLINE_NAMESPACE

#endif
