#include <linux/module.h>
#define INCLUDE_VERMAGIC
#include <linux/build-salt.h>
#include <linux/elfnote-lto.h>
#include <linux/export-internal.h>
#include <linux/vermagic.h>
#include <linux/compiler.h>

BUILD_SALT;
BUILD_LTO_INFO;

MODULE_INFO(vermagic, VERMAGIC_STRING);
MODULE_INFO(name, KBUILD_MODNAME);

__visible struct module __this_module
__section(".gnu.linkonce.this_module") = {
	.name = KBUILD_MODNAME,
	.init = init_module,
#ifdef CONFIG_MODULE_UNLOAD
	.exit = cleanup_module,
#endif
	.arch = MODULE_ARCH_INIT,
};

#ifdef CONFIG_RETPOLINE
MODULE_INFO(retpoline, "Y");
#endif


static const struct modversion_info ____versions[]
__used __section("__versions") = {
	{ 0xbdfb6dbb, "__fentry__" },
	{ 0x5b8239ca, "__x86_return_thunk" },
	{ 0x11dd3e1e, "alloc_pages" },
	{ 0x97651e6c, "vmemmap_base" },
	{ 0x7cd8d75e, "page_offset_base" },
	{ 0x844c8938, "misc_register" },
	{ 0x7d173e99, "__free_pages" },
	{ 0x35c4f925, "vsp_transport_unregister" },
	{ 0x3efec7e4, "vsp_transport_register" },
	{ 0x4dfa8d4b, "mutex_lock" },
	{ 0x88db9f48, "__check_object_size" },
	{ 0x6b10bee1, "_copy_to_user" },
	{ 0x3213f038, "mutex_unlock" },
	{ 0xa19b956, "__stack_chk_fail" },
	{ 0x47978cc, "misc_deregister" },
	{ 0x56470118, "__warn_printk" },
	{ 0xbcb36fe4, "hugetlb_optimize_vmemmap_key" },
	{ 0x587f22d7, "devmap_managed_key" },
	{ 0xd184be77, "__folio_put" },
	{ 0x7aa1756e, "kvfree" },
	{ 0x7de31af2, "__put_devmap_managed_page_refs" },
	{ 0x13c49cc2, "_copy_from_user" },
	{ 0x85348bba, "vsp_cchan_kick" },
	{ 0x599fb41c, "kvmalloc_node" },
	{ 0x7ad86aef, "default_llseek" },
	{ 0x9060323f, "module_layout" },
};

MODULE_INFO(depends, "vesper");

