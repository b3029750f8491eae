// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"fmt"

	"cloister/labels"
)

// TemplateReason says why a sandbox's machine cannot map memory of the Kind Template; nil: it can.
// It may be called before Reserve and has no effect.
func TemplateReason(d Driver) error {
	if s, ok := d.(*selinux); ok {
		return s.templateReason()
	}
	return nil
}

// templateReason is TemplateReason. The level is not drawn yet: any pair will do for the question.
func (s *selinux) templateReason() error {
	pair, err := labels.NewPair(0, 1)
	if err != nil {
		return err
	}
	level := labels.NewLevel(s.driver.OwnLabel().Range.Low.Sensitivity, pair)
	if asked := s.wish.Level(); asked != nil {
		level = *asked
	}
	chosen, err := labels.Choose(s.wish, s.driver.OwnLabel(), s.types, level)
	if err != nil {
		return err
	}
	if chosen.Template.IsZero() {
		return fmt.Errorf("SELinux's types %s have none for memory that sandboxes share", s.types.Name)
	}
	if err := s.driver.CanShareMemory(chosen.QEMU, chosen.Template); err != nil {
		return fmt.Errorf("SELinux's policy has no rule for memory that sandboxes share: run: cloister policy install: %w", err)
	}
	return nil
}
