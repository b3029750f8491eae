// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
)

// topicOf names the topic that containerd's clients subscribe to for an event.
func topicOf(event any) (string, error) {
	switch event.(type) {
	case *eventsapi.TaskCreate:
		return runtime.TaskCreateEventTopic, nil
	case *eventsapi.TaskStart:
		return runtime.TaskStartEventTopic, nil
	case *eventsapi.TaskOOM:
		return runtime.TaskOOMEventTopic, nil
	case *eventsapi.TaskExit:
		return runtime.TaskExitEventTopic, nil
	case *eventsapi.TaskDelete:
		return runtime.TaskDeleteEventTopic, nil
	case *eventsapi.TaskExecAdded:
		return runtime.TaskExecAddedEventTopic, nil
	case *eventsapi.TaskExecStarted:
		return runtime.TaskExecStartedEventTopic, nil
	case *eventsapi.TaskPaused:
		return runtime.TaskPausedEventTopic, nil
	case *eventsapi.TaskResumed:
		return runtime.TaskResumedEventTopic, nil
	}
	return "", fmt.Errorf("event %T has no topic: %w", event, errdefs.ErrInvalidArgument)
}

// mayDrop says whether an event of the topic may go when the queue is full. Clients wait for exits
// and deletes, and containerd's own state depends on them.
func mayDrop(topic string) bool {
	return topic != runtime.TaskExitEventTopic && topic != runtime.TaskDeleteEventTopic
}
