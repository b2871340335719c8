// SPDX-License-Identifier: MIT

package dirtylog_test

import (
	"fmt"
	"os"
	"testing"

	"example.org/dirtylog"
)

func TestVersions(t *testing.T) {
	if dirtylog.LibraryVersion() != dirtylog.HeaderVersion {
		t.Errorf("library %#x, header %#x", dirtylog.LibraryVersion(), dirtylog.HeaderVersion)
	}
	const v = dirtylog.HeaderVersion
	number := fmt.Sprintf("%d.%d.%d", v>>16, v>>8&0xff, v&0xff)
	if dirtylog.Version != number {
		t.Errorf("this package is %s, the header %s", dirtylog.Version, number)
	}
	if project := os.Getenv("DIRTYLOG_VERSION"); project != "" && project != dirtylog.Version {
		t.Errorf("this package is %s, the project %s", dirtylog.Version, project)
	}
}
