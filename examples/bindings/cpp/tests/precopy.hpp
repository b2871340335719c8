/* SPDX-License-Identifier: MIT */
#ifndef CPP_TESTS_PRECOPY_HPP
#define CPP_TESTS_PRECOPY_HPP

#include "check.hpp"
#include "guest.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

/* A copy of a guest's memory, by guest address. It may be told to lose an extent when paused. */
class receiver
{
public:
	explicit receiver(bool lose) : memory_(guest::memory_bytes), lose_(lose) {}

	void receive(const dirtylog::extent &extent, bool paused)
	{
		if (paused && lose_ && !lost_.bytes) {
			lost_ = extent;
			return;
		}
		std::memcpy(memory_.data() + extent.gpa, dirtylog::data(extent), extent.bytes);
		received_++;
	}
	bool equals(const guest &guest) const
	{
		return std::equal(memory_.begin(), memory_.end(), guest.memory);
	}
	/* Receives what it has lost. Returns whether it has lost something. */
	bool find()
	{
		if (lost_.bytes)
			std::memcpy(memory_.data() + lost_.gpa, dirtylog::data(lost_), lost_.bytes);
		return lost_.bytes != 0;
	}
	unsigned int received() const { return received_; }

private:
	std::vector<std::byte> memory_;
	bool lose_;
	dirtylog::extent lost_{};
	unsigned int received_ = 0;
};

/*
 * Copies while the guest runs, then stops it and copies until nothing is pending.
 * copy_pass(flags, receiver) is a pass, and returns what was pending.
 */
template <class CopyPass>
void migrate(guest &guest, dirtylog::vcpu &vcpu, receiver &receiver, CopyPass copy_pass)
{
	guest.start(vcpu);
	copy_pass(DL_HARVEST_ALL, receiver);
	for (int pass = 0; pass < 4; pass++) {
		guest.write_some();
		copy_pass(0, receiver);
	}
	guest.write_some();
	guest.stop();
	while (copy_pass(DL_HARVEST_PAUSED, receiver))
		;
}

/* Migrates twice: the first copy is equal, the second lacks an extent and is not. */
template <class CopyPass> void prove(guest &guest, dirtylog::vcpu &vcpu, CopyPass copy_pass)
{
	receiver whole(false), broken(true);

	migrate(guest, vcpu, whole, copy_pass);
	CHECK(whole.received() > 4);
	CHECK(whole.equals(guest));

	migrate(guest, vcpu, broken, copy_pass);
	CHECK(!broken.equals(guest));
	CHECK(broken.find());
	CHECK(broken.equals(guest));
}

#endif
