package initramfs

// Module is one kernel module wanted in the initramfs.
type Module struct {
	Name string
	// Essential modules have to be in the kernel's tree, or in the kernel; the others
	// are left out where the tree does not have them.
	Essential bool
	Why       string
}

// DefaultModules returns what eos-init may need to reach a slot on the
// machines that EOS supports, and nothing more: whatever else a machine has is
// driven from the slot, where all modules are.
func DefaultModules() []Module {
	return []Module{
		{"dm-mod", true, "the slot's root is a device-mapper device"},
		{"dm-verity", true, "and this is its target"},
		{"squashfs", true, "the root filesystem"},

		{"i6300esb", false, "watchdog of QEMU and of old Intel south bridges"},
		{"iTCO_wdt", false, "watchdog of Intel chipsets"},
		{"lpc_ich", false, "makes the device that iTCO_wdt drives"},
		{"i2c_i801", false, "the same on newer chipsets"},
		{"wdat_wdt", false, "watchdog described by ACPI"},
		{"sp5100_tco", false, "watchdog of AMD chipsets"},

		{"virtio_pci", false, "bus of virtual machines"},
		{"virtio_mmio", false, "bus of micro-VMs and of Arm virtual machines"},
		{"virtio_blk", false, "disks of virtual machines"},
		{"virtio_scsi", false, "the same by SCSI"},
		{"sd_mod", false, "SCSI, SATA and USB disks"},
		{"ahci", false, "SATA"},
		{"ata_piix", false, "old Intel IDE and SATA, and machine type pc of QEMU"},
		{"nvme", false, "NVMe"},
		{"xhci_pci", false, "USB 3 host"},
		{"ehci_pci", false, "USB 2 host"},
		{"usb_storage", false, "USB sticks and disks"},
		{"uas", false, "faster USB disks"},
		{"sdhci_pci", false, "SD and eMMC host on PCI"},
		{"sdhci_acpi", false, "SD and eMMC host of Atom boards"},
		{"mmc_block", false, "SD cards and eMMC"},
		{"hv_vmbus", false, "bus of Hyper-V"},
		{"hv_storvsc", false, "disks of Hyper-V"},
		{"vmw_pvscsi", false, "disks of VMware"},
		{"xen_blkfront", false, "disks of Xen and old EC2 machines"},

		{"sha256_ssse3", false, "SHA-256 with the CPU's own instructions, several times faster for dm-verity"},
	}
}
