package launch

import (
	"fmt"
	"os"
	"time"
)

// indicate shows at a terminal that the application is being started, until it is, or the
// returned call says that it will not be.
func (j *job) indicate() (done func()) {
	if !j.Call.Progress || !isTerminal(os.Stderr) {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := 0; readPid(j.pidFile) == 0; i++ {
			fmt.Fprintf(os.Stderr, "\r%c launching %s ", `|/-\`[i%4], j.Registration.Name)
			select {
			case <-stop:
			case <-tick.C:
				continue
			}
			break
		}
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}()
	return func() { close(stop); <-stopped }
}
