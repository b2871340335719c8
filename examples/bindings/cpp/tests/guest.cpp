/* SPDX-License-Identifier: MIT */
#include "guest.hpp"
#include "check.hpp"

#include <sys/mman.h>

static std::byte *map(std::size_t bytes)
{
	void *memory =
		mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(memory != MAP_FAILED);
	return static_cast<std::byte *>(memory);
}

guest::guest()
    : memory(map(memory_bytes)), page_bytes(static_cast<std::size_t>(sysconf(_SC_PAGESIZE)))
{
}

guest::~guest()
{
	stop();
	munmap(memory, memory_bytes);
}

void guest::run(dirtylog::vcpu &vcpu)
{
	while (!stop_) {
		run_round(vcpu);
		std::lock_guard<std::mutex> guard(lock_);
		rounds_++;
		moved_.notify_all();
	}
}

void guest::start(dirtylog::vcpu &vcpu)
{
	stop_ = false;
	thread_ = std::thread(&guest::run, this, std::ref(vcpu));
}

void guest::stop()
{
	stop_ = true;
	if (thread_.joinable())
		thread_.join();
}

void guest::write_some()
{
	std::unique_lock<std::mutex> guard(lock_);
	const auto enough = rounds_ + 3;

	moved_.wait(guard, [&] { return rounds_ >= enough; });
}
