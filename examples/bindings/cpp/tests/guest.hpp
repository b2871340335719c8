/* SPDX-License-Identifier: MIT */
#ifndef CPP_TESTS_GUEST_HPP
#define CPP_TESTS_GUEST_HPP

#include <dirtylog/dirtylog.hpp>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>

/* A VM with one slot's memory and one vCPU, whose guest writes to all its pages for ever. */
class guest
{
public:
	static constexpr std::size_t memory_bytes = 1 << 20;

	guest();
	virtual ~guest();
	guest(const guest &) = delete;
	guest &operator=(const guest &) = delete;

	virtual int vm() = 0;
	virtual const dl_os *os() { return nullptr; }
	virtual std::uint32_t ring_entries() { return 0; }   /* 0: a good size */
	virtual void vmm_wrote(const void *, std::size_t) {} /* the kernel knows */
	virtual int create_vcpu() = 0; /* after the log is open and the slot is set */

	void start(dirtylog::vcpu &vcpu);
	void stop();	   /* the vCPU is outside of KVM_RUN when this returns */
	void write_some(); /* returns when the guest has written to a hundred more pages */

	std::byte *const memory;
	const std::size_t page_bytes;

protected:
	/* Runs until it has written some 37 pages; drains as needed. On the vCPU's thread. */
	virtual void run_round(dirtylog::vcpu &vcpu) = 0;

private:
	void run(dirtylog::vcpu &vcpu);

	std::thread thread_;
	std::atomic<bool> stop_{ false };
	std::mutex lock_;
	std::condition_variable moved_;
	unsigned long rounds_ = 0;
};

/* On the machine that the tests are for: /dev/kvm, or the model kernel. */
std::unique_ptr<guest> new_guest();

/* Why there can be no guest here, or NULL. */
const char *no_guest();

#endif
