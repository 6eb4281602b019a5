// The pools of Go that `benches/pool` compares with. One call measures one workload of one pool, and
// prints its nanoseconds: go-pools ARM WORK SHAPE PRODUCERS SIZE JOBS THREADS. A line "peak KB" follows.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alitto/pond/v2"
	"github.com/panjf2000/ants/v2"
)

// submitter waits for room and hands the job over.
type submitter func(job func())

// workerPool is fasthttp's workerpool.go with jobs instead of connections: idle workers on a stack, each
// with a channel of its own. Its submit refuses when all workers are busy.
type workerPool struct {
	lock    sync.Mutex
	ready   []chan func()
	workers int
	max     int
}

func (pool *workerPool) serve(job func()) bool {
	pool.lock.Lock()
	var worker chan func()
	if last := len(pool.ready) - 1; last >= 0 {
		worker = pool.ready[last]
		pool.ready = pool.ready[:last]
	} else if pool.workers < pool.max {
		pool.workers++
		worker = make(chan func(), 1)
		go pool.work(worker)
	}
	pool.lock.Unlock()
	if worker == nil {
		return false
	}
	worker <- job
	return true
}

func (pool *workerPool) work(jobs chan func()) {
	for job := range jobs {
		job()
		pool.lock.Lock()
		pool.ready = append(pool.ready, jobs)
		pool.lock.Unlock()
	}
}

func newPool(arm string, size int) submitter {
	switch arm {
	case "go":
		return func(job func()) { go job() }
	case "ants":
		pool, err := ants.NewPool(size)
		if err != nil {
			panic(err)
		}
		return func(job func()) {
			if err := pool.Submit(job); err != nil {
				panic(err)
			}
		}
	case "pond":
		pool := pond.NewPool(size, pond.WithQueueSize(size))
		return func(job func()) {
			if err := pool.Go(job); err != nil {
				panic(err)
			}
		}
	case "fasthttp":
		pool := &workerPool{max: size}
		return func(job func()) {
			for !pool.serve(job) {
				runtime.Gosched()
			}
		}
	}
	panic("the arms are go, ants, pond and fasthttp")
}

func work(name string) func() {
	switch name {
	case "tiny":
		return func() {}
	case "yield":
		return runtime.Gosched
	case "sleep":
		return func() { time.Sleep(time.Millisecond) }
	case "sleep10":
		return func() { time.Sleep(10 * time.Millisecond) }
	case "spin":
		return func() {
			for start := time.Now(); time.Since(start) < 5*time.Microsecond; {
			}
		}
	}
	panic("the works are tiny, yield, sleep, sleep10 and spin")
}

func produce(submit submitter, job func(), shape string, jobs int) {
	switch shape {
	case "feed", "gather":
		// A wait group is Go's way to wait for kept handles, and to know that all has ended.
		var ended sync.WaitGroup
		ended.Add(jobs)
		for range jobs {
			submit(func() {
				job()
				ended.Done()
			})
		}
		ended.Wait()
	case "call":
		done := make(chan struct{})
		for range jobs {
			submit(func() {
				job()
				done <- struct{}{}
			})
			<-done
		}
	default:
		panic("the shapes are feed, gather and call")
	}
}

func pass(submit submitter, job func(), shape string, producers, jobs int) time.Duration {
	start := time.Now()
	var ended sync.WaitGroup
	for range producers {
		ended.Add(1)
		go func() {
			produce(submit, job, shape, jobs/producers)
			ended.Done()
		}()
	}
	ended.Wait()
	return time.Since(start)
}

func peak() string {
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmHWM:" {
			return fields[1]
		}
	}
	return "0"
}

func main() {
	if len(os.Args) != 8 {
		panic("usage: go-pools ARM WORK SHAPE PRODUCERS SIZE JOBS THREADS")
	}
	number := func(index int) int {
		number, err := strconv.Atoi(os.Args[index])
		if err != nil {
			panic(err)
		}
		return number
	}
	producers, size, jobs := number(4), number(5), number(6)
	runtime.GOMAXPROCS(number(7))
	submit, job, shape := newPool(os.Args[1], size), work(os.Args[2]), os.Args[3]
	pass(submit, job, shape, producers, jobs/20)
	fmt.Println(pass(submit, job, shape, producers, jobs).Nanoseconds())
	fmt.Println("peak", peak())
}
