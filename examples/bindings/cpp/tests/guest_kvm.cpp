/* SPDX-License-Identifier: MIT */
#include "guest.hpp"
#include "check.hpp"

#include <cstring>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace
{

constexpr std::size_t code_gpa = 0x1010; /* behind the bytes that the guest writes in each page */

const unsigned char code[] = {
	0x8e, 0xc3,			    /* next: mov es, bx; a page is 0x100 paragraphs */
	0x66, 0x40,			    /* inc eax */
	0x66, 0x26, 0xa3, 0x00, 0x00,	    /* mov es:[0], eax; no value twice */
	0x81, 0xc3, 0x00, 0x07, 0x73, 0xf1, /* add bx, 0x700; jnc next */
	0xe6, 0x10, 0xeb, 0xed,		    /* out 0x10, al; jmp next */
};

int must(int result)
{
	CHECK(result >= 0);
	return result;
}

class kvm_guest : public guest
{
public:
	kvm_guest() { std::memcpy(memory + code_gpa, code, sizeof(code)); }
	~kvm_guest() override
	{
		stop();
		if (run_)
			munmap(run_, run_bytes_);
		for (int fd : { vcpu_, vm_, kvm_ })
			if (fd >= 0)
				close(fd);
	}
	int vm() override { return vm_; }
	int create_vcpu() override;

private:
	void run_round(dirtylog::vcpu &vcpu) override;

	int kvm_ = must(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	int vm_ = must(ioctl(kvm_, KVM_CREATE_VM, 0));
	int vcpu_ = -1;
	std::size_t run_bytes_ = 0;
	kvm_run *run_ = nullptr;
};

int kvm_guest::create_vcpu()
{
	kvm_regs regs{};
	kvm_sregs sregs;

	must(ioctl(vm_, KVM_SET_TSS_ADDR, 0x10000000));
	vcpu_ = must(ioctl(vm_, KVM_CREATE_VCPU, 0));
	run_bytes_ = static_cast<std::size_t>(must(ioctl(kvm_, KVM_GET_VCPU_MMAP_SIZE, 0)));
	void *mapped = mmap(nullptr, run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_, 0);
	CHECK(mapped != MAP_FAILED);
	run_ = static_cast<kvm_run *>(mapped);
	must(ioctl(vcpu_, KVM_GET_SREGS, &sregs));
	sregs.cs.base = sregs.cs.selector = 0;
	must(ioctl(vcpu_, KVM_SET_SREGS, &sregs));
	regs.rip = code_gpa;
	regs.rflags = 2;
	must(ioctl(vcpu_, KVM_SET_REGS, &regs));
	return vcpu_;
}

void kvm_guest::run_round(dirtylog::vcpu &vcpu)
{
	std::error_code ec;

	do {
		must(ioctl(vcpu_, KVM_RUN, 0));
		if (run_->exit_reason == KVM_EXIT_DIRTY_RING_FULL)
			vcpu.drain(ec);
		CHECK(!ec);
	} while (run_->exit_reason != KVM_EXIT_IO);
}

} // namespace

std::unique_ptr<guest> new_guest()
{
	return std::make_unique<kvm_guest>();
}

const char *no_guest()
{
	return access("/dev/kvm", R_OK | W_OK) ? "no access to /dev/kvm" : nullptr;
}
