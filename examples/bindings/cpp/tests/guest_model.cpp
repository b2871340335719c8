/* SPDX-License-Identifier: MIT */
#include "guest.hpp"
#include "check.hpp"

#include <dirtylog/model.h>

namespace
{

enum { EXIT_IO = 2 };

class model_guest : public guest
{
public:
	model_guest()
	{
		dirtylog::sized<dlm_options> options;

		options.reserved_entries = 192;
		CHECK(!dlm_vm_new(&options, &vm_, nullptr, 0));
	}
	~model_guest() override
	{
		stop();
		dlm_vm_free(vm_);
	}
	int vm() override { return dlm_vm_fd(vm_); }
	const dl_os *os() override { return dlm_vm_os(vm_); }
	std::uint32_t ring_entries() override { return 256; } /* 64 fill it */
	void vmm_wrote(const void *at, std::size_t bytes) override
	{
		CHECK(!dlm_vmm_wrote(vm_, "test", at, bytes));
	}
	int create_vcpu() override
	{
		CHECK(!dlm_vcpu_add(vm_, &vcpu_));
		return dlm_vcpu_fd(vcpu_);
	}

private:
	void run_round(dirtylog::vcpu &vcpu) override;

	dlm_vm *vm_ = nullptr;
	dlm_vcpu *vcpu_ = nullptr;
	std::uint64_t page_ = 0;
	std::uint32_t value_ = 0;
};

/* As the guest of guest_kvm.cpp. */
void model_guest::run_round(dirtylog::vcpu &vcpu)
{
	const std::uint64_t pages = memory_bytes / page_bytes;
	std::error_code ec;
	int result;

	do {
		value_++;
		while ((result = dlm_vcpu_write(vcpu_, 0, page_ * page_bytes, &value_,
						sizeof(value_), nullptr)) == DLM_RING_FULL) {
			vcpu.drain(ec);
			CHECK(!ec);
		}
		CHECK(!result);
		page_ += 7;
	} while (page_ < pages);
	page_ -= pages;
	CHECK(!dlm_vcpu_exit(vcpu_, EXIT_IO));
}

} // namespace

std::unique_ptr<guest> new_guest()
{
	return std::make_unique<model_guest>();
}

const char *no_guest()
{
	return nullptr;
}
