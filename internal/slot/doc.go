// Package slot is the A/B update state machine as pure data. It decides whether an
// operation is allowed, which boot state and device record result from it, and in
// which order everything is written.
//
// Most callers need [Device] and its Plan methods: [Device.PlanWrite],
// [Device.PlanActivate], [Device.PlanHealthy], [Device.PlanRollback],
// [Device.PlanReconcile]. A plan is a list of [Step] values. The caller carries them
// out one after the other, each made durable before the next begins, and stops at
// the first that does not succeed; running the operation again continues. [Apply] is
// the transition function on the boot state alone.
//
//	         BeginWrite            EndWrite          BeginTrial         Commit
//	any ----------------> empty ------------> written ---------> trial ----------> committed
//	                                             ^                 |  |
//	                                             +---CancelTrial---+  +-TrialFailed-> failed
//
// The package also owns the device record ([Record], [ReadRecord], [WriteRecord]):
// what failed and why, the last result, rollback floors, and what was proved.
//
// It does not touch slots, kernels or the boot state file. The order of steps, and
// why it keeps a bootable committed slot at every instant, is in
// docs/design/slot-states.md; the tests cut every plan between every two steps.
//
// Callers must keep two operations apart with a lock held from reading the Device to
// the last step.
package slot
