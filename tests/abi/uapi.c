/* SPDX-License-Identifier: MIT */
/*
 * What doc/sources.md says of the kernel's headers: fields and numbers that dl_mark_bitmap() is fed
 * from. Argument: vhost, vfio, vfio-log or iommufd; what the headers here do not have is skipped.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifdef __has_include
#if __has_include(<linux/vhost.h>)
#include <linux/vhost.h>
#endif
#if __has_include(<linux/vfio.h>)
#include <linux/vfio.h>
#endif
#if __has_include(<linux/iommufd.h>)
#include <linux/iommufd.h>
#endif
#endif

#define FIELD(type, field, offset, bytes)                                   \
	static_assert(offsetof(struct type, field) == (offset) &&           \
			      sizeof(((struct type *)0)->field) == (bytes), \
		      #type "." #field)

static const char *const present[] = {
	"",
#ifdef VHOST_SET_LOG_BASE
	"vhost",
#endif
#ifdef VFIO_IOMMU_DIRTY_PAGES
	"vfio",
#endif
#ifdef VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
	"vfio-log",
#endif
#ifdef IOMMU_HWPT_GET_DIRTY_BITMAP
	"iommufd",
#endif
};

#ifdef VHOST_SET_LOG_BASE
static_assert(VHOST_F_LOG_ALL == 26, "VHOST_F_LOG_ALL");
static_assert(VHOST_VRING_F_LOG == 0, "a bit number");
static_assert(_IOC_SIZE(VHOST_SET_LOG_BASE) == 8, "an address of 64 bits");
FIELD(vhost_vring_addr, flags, 4, 4);
FIELD(vhost_vring_addr, log_guest_addr, 32, 8);
#endif

#ifdef VFIO_IOMMU_DIRTY_PAGES
FIELD(vfio_bitmap, pgsize, 0, 8);
FIELD(vfio_bitmap, size, 8, 8);
FIELD(vfio_bitmap, data, 16, sizeof(void *));
FIELD(vfio_iommu_type1_dirty_bitmap_get, iova, 0, 8);
FIELD(vfio_iommu_type1_dirty_bitmap_get, size, 8, 8);
FIELD(vfio_iommu_type1_dirty_bitmap_get, bitmap, 16, sizeof(struct vfio_bitmap));
#endif

#ifdef VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
FIELD(vfio_device_feature_dma_logging_report, iova, 0, 8);
FIELD(vfio_device_feature_dma_logging_report, length, 8, 8);
FIELD(vfio_device_feature_dma_logging_report, page_size, 16, 8);
FIELD(vfio_device_feature_dma_logging_report, bitmap, 24, 8);
#endif

#ifdef IOMMU_HWPT_GET_DIRTY_BITMAP
FIELD(iommu_hwpt_get_dirty_bitmap, hwpt_id, 4, 4);
FIELD(iommu_hwpt_get_dirty_bitmap, iova, 16, 8);
FIELD(iommu_hwpt_get_dirty_bitmap, length, 24, 8);
FIELD(iommu_hwpt_get_dirty_bitmap, page_size, 32, 8);
FIELD(iommu_hwpt_get_dirty_bitmap, data, 40, 8);
#endif

int main(int argc, char **argv)
{
	for (size_t i = 0; argc == 2 && i < sizeof(present) / sizeof(present[0]); i++)
		if (!strcmp(argv[1], present[i]))
			return 0;
	printf("skip: the kernel's headers here do not have %s\n", argc == 2 ? argv[1] : "that");
	return 77;
}
