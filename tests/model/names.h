/* SPDX-License-Identifier: MIT */
#ifndef MODEL_NAMES_H
#define MODEL_NAMES_H

/*
 * A program that is linked with the static libdirtylog-model may have functions of these names and
 * would replace ours without a word. In the library they begin with dlm, as tests/abi checks.
 */

#define mk_call_begin		    dlmi_mk_call_begin
#define mk_check_extension	    dlmi_mk_check_extension
#define mk_clear_dirty_log	    dlmi_mk_clear_dirty_log
#define mk_enable_cap		    dlmi_mk_enable_cap
#define mk_event_call		    dlmi_mk_event_call
#define mk_event_page		    dlmi_mk_event_page
#define mk_find_vcpu		    dlmi_mk_find_vcpu
#define mk_find_vm		    dlmi_mk_find_vm
#define mk_get_dirty_log	    dlmi_mk_get_dirty_log
#define mk_is_region_ioctl	    dlmi_mk_is_region_ioctl
#define mk_leaf_find		    dlmi_mk_leaf_find
#define mk_leaf_get		    dlmi_mk_leaf_get
#define mk_map_memory		    dlmi_mk_map_memory
#define mk_model_number		    dlmi_mk_model_number
#define mk_now_ns		    dlmi_mk_now_ns
#define mk_page_store_allowed	    dlmi_mk_page_store_allowed
#define mk_pagemap		    dlmi_mk_pagemap
#define mk_pages_free		    dlmi_mk_pages_free
#define mk_pages_map_writable	    dlmi_mk_pages_map_writable
#define mk_pages_new		    dlmi_mk_pages_new
#define mk_pages_protect	    dlmi_mk_pages_protect
#define mk_pages_protect_all	    dlmi_mk_pages_protect_all
#define mk_pages_set_dirty_all	    dlmi_mk_pages_set_dirty_all
#define mk_pages_unmap_all	    dlmi_mk_pages_unmap_all
#define mk_reset_fault_count	    dlmi_mk_reset_fault_count
#define mk_reset_fault_take	    dlmi_mk_reset_fault_take
#define mk_reset_rings		    dlmi_mk_reset_rings
#define mk_return_lent_cells	    dlmi_mk_return_lent_cells
#define mk_ring_free		    dlmi_mk_ring_free
#define mk_ring_is_full		    dlmi_mk_ring_is_full
#define mk_ring_new		    dlmi_mk_ring_new
#define mk_ring_push		    dlmi_mk_ring_push
#define mk_set_region		    dlmi_mk_set_region
#define mk_slot_by_gpa		    dlmi_mk_slot_by_gpa
#define mk_slot_by_id		    dlmi_mk_slot_by_id
#define mk_slot_name_valid	    dlmi_mk_slot_name_valid
#define mk_slots_free		    dlmi_mk_slots_free
#define mk_slots_new		    dlmi_mk_slots_new
#define mk_slots_read_lock	    dlmi_mk_slots_read_lock
#define mk_slots_read_unlock	    dlmi_mk_slots_read_unlock
#define mk_thread_clock		    dlmi_mk_thread_clock
#define mk_thread_ns		    dlmi_mk_thread_ns
#define mk_timer		    dlmi_mk_timer
#define mk_timer_close		    dlmi_mk_timer_close
#define mk_timer_set		    dlmi_mk_timer_set
#define mk_tlb_flush		    dlmi_mk_tlb_flush
#define mk_userfaultfd		    dlmi_mk_userfaultfd
#define mk_vcpu_create		    dlmi_mk_vcpu_create
#define mk_vcpu_mmap		    dlmi_mk_vcpu_mmap
#define mk_vm_create		    dlmi_mk_vm_create
#define mk_vm_free		    dlmi_mk_vm_free
#define mk_watch_close		    dlmi_mk_watch_close
#define mk_watch_ioctl		    dlmi_mk_watch_ioctl
#define mk_watches_free		    dlmi_mk_watches_free
#define mk_watches_new		    dlmi_mk_watches_new
#define mk_word_valid_mask	    dlmi_mk_word_valid_mask
#define model_advance		    dlmi_model_advance
#define model_alias_wrote	    dlmi_model_alias_wrote
#define model_calls		    dlmi_model_calls
#define model_copy		    dlmi_model_copy
#define model_fault		    dlmi_model_fault
#define model_fault_add		    dlmi_model_fault_add
#define model_fault_injected	    dlmi_model_fault_injected
#define model_faults_clear	    dlmi_model_faults_clear
#define model_faults_injected	    dlmi_model_faults_injected
#define model_flush_tlb		    dlmi_model_flush_tlb
#define model_free		    dlmi_model_free
#define model_hook		    dlmi_model_hook
#define model_is_timer		    dlmi_model_is_timer
#define model_is_watch_fd	    dlmi_model_is_watch_fd
#define model_kernel_write	    dlmi_model_kernel_write
#define model_new		    dlmi_model_new
#define model_os		    dlmi_model_os
#define model_page_states	    dlmi_model_page_states
#define model_page_writes	    dlmi_model_page_writes
#define model_reset_fault	    dlmi_model_reset_fault
#define model_reset_faults_injected dlmi_model_reset_faults_injected
#define model_system_fd		    dlmi_model_system_fd
#define model_timer_left	    dlmi_model_timer_left
#define model_vcpu_create	    dlmi_model_vcpu_create
#define model_vcpu_enter	    dlmi_model_vcpu_enter
#define model_vcpu_exit		    dlmi_model_vcpu_exit
#define model_vcpu_pause	    dlmi_model_vcpu_pause
#define model_vcpu_ring		    dlmi_model_vcpu_ring
#define model_vcpu_thread	    dlmi_model_vcpu_thread
#define model_vcpu_write	    dlmi_model_vcpu_write
#define model_vcpu_write_unchecked  dlmi_model_vcpu_write_unchecked
#define model_vm_create		    dlmi_model_vm_create
#define model_watch_descriptors	    dlmi_model_watch_descriptors

#endif
