// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"os"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// acpiTables are there when the machine can be told to power off.
const acpiTables = "/sys/firmware/acpi/tables"

// Uptime is the time since the kernel started. It includes the time in which the guest was stopped,
// since hosts compare it with their own clock. Zero means that the clock could not be read.
func Uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// PowerOff ends the guest. A machine without ACPI cannot be powered off: it is
// restarted, which ends a QEMU that runs with -no-reboot.
func PowerOff(ctx context.Context) {
	// Disks of containers are the guest's to write back; QEMU ends right after.
	unix.Sync()
	how := unix.LINUX_REBOOT_CMD_RESTART
	if _, err := os.Stat(acpiTables); err == nil {
		how = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	if err := unix.Reboot(how); err != nil {
		log.G(ctx).WithError(err).Error("power off") // process 1 ends: panic=-1 restarts
	}
}
