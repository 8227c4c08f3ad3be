// A small service in Go, written against stubs that Debian's protoc generates from proto/: it registers an instance,
// keeps its lease alive, lists it, and sees on a watch how it came and, once the keep-alive stops, how it went.
//
// It prints one line a step and exits non-zero at the first one that fails, so that a test can run it as it is.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/golang/protobuf/ptypes"
	"google.golang.org/grpc"

	rosterv1 "roster/v1"
)

const (
	service = "go-client"
	ttl     = 2 * time.Second
	// The whole run: a lease kept for three TTLs, then left to end.
	wholeRun = 45 * time.Second
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go-client HOST:PORT")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "go-client:", err)
		os.Exit(1)
	}
}

func run(endpoint string) error {
	ctx, cancel := context.WithTimeout(context.Background(), wholeRun)
	defer cancel()
	connection, err := grpc.DialContext(ctx, endpoint, grpc.WithInsecure(), grpc.WithBlock())
	if err != nil {
		return fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	defer connection.Close()
	registry := rosterv1.NewRegistryClient(connection)
	leases := rosterv1.NewLeasesClient(connection)

	changes, err := watch(ctx, registry)
	if err != nil {
		return err
	}
	instance, err := register(ctx, registry)
	if err != nil {
		return err
	}
	if err := await(ctx, changes, rosterv1.Change_PUT); err != nil {
		return err
	}
	fmt.Println("watched: it came")

	if err := keepAlive(ctx, leases, instance.GetLeaseId(), 3*ttl); err != nil {
		return err
	}
	if err := list(ctx, registry, instance.GetKey().GetId()); err != nil {
		return err
	}
	if err := await(ctx, changes, rosterv1.Change_REMOVE); err != nil {
		return err
	}
	fmt.Println("watched: it went")
	return nil
}

func selector() *rosterv1.Selector {
	return &rosterv1.Selector{
		Scope: &rosterv1.Selector_Services{Services: &rosterv1.Services{Names: []string{service}}},
	}
}

// watch opens a watch and returns its changes once the first snapshot is whole.
func watch(ctx context.Context, registry rosterv1.RegistryClient) (<-chan *rosterv1.Change, error) {
	stream, err := registry.Watch(ctx, &rosterv1.WatchRequest{Selector: selector()})
	if err != nil {
		return nil, fmt.Errorf("open the watch: %w", err)
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("receive the snapshot: %w", err)
		}
		if message.GetKind() != rosterv1.WatchResponse_SNAPSHOT {
			return nil, fmt.Errorf("the watch began with %v, not with its snapshot", message.GetKind())
		}
		if !message.GetMore() {
			fmt.Println("watching after revision", message.GetPosition().GetRevision())
			break
		}
	}
	changes := make(chan *rosterv1.Change, 16)
	go func() {
		defer close(changes)
		for {
			message, err := stream.Recv()
			if err != nil {
				return
			}
			for _, change := range message.GetChanges() {
				changes <- change
			}
		}
	}()
	return changes, nil
}

func register(ctx context.Context, registry rosterv1.RegistryClient) (*rosterv1.Instance, error) {
	response, err := registry.Register(ctx, &rosterv1.RegisterRequest{
		Instance: &rosterv1.Instance{
			Key:     &rosterv1.InstanceKey{Service: service},
			Address: "127.0.0.1",
			Ports:   []*rosterv1.Port{{Name: "http", Number: 8080, Protocol: "http"}},
			Tags:    []string{"go"},
		},
		Hold: &rosterv1.RegisterRequest_OwnLease{
			OwnLease: &rosterv1.OwnLease{Ttl: ptypes.DurationProto(ttl)},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	fmt.Println("registered", response.GetInstance().GetKey().GetId(), "under lease", response.GetInstance().GetLeaseId())
	return response.GetInstance(), nil
}

// keepAlive renews the lease on one stream, four times a TTL, for as long as asked.
func keepAlive(ctx context.Context, leases rosterv1.LeasesClient, lease int64, span time.Duration) error {
	stream, err := leases.KeepAlive(ctx)
	if err != nil {
		return fmt.Errorf("open the keep-alive stream: %w", err)
	}
	renewals := int64(0)
	for end := time.Now().Add(span); time.Now().Before(end); {
		renewals++
		if err := stream.Send(&rosterv1.RenewRequest{Seq: renewals, LeaseIds: []int64{lease}}); err != nil {
			return fmt.Errorf("send renewal %d: %w", renewals, err)
		}
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("receive renewal %d: %w", renewals, err)
		}
		if response.GetSeq() != renewals || len(response.GetResults()) != 1 {
			return fmt.Errorf("renewal %d was answered by %v", renewals, response)
		}
		if outcome := response.GetResults()[0].GetOutcome(); outcome != rosterv1.RenewResult_RENEWED {
			return fmt.Errorf("renewal %d: %v", renewals, outcome)
		}
		time.Sleep(ttl / 4)
	}
	if err := stream.CloseSend(); err != nil {
		return fmt.Errorf("close the keep-alive stream: %w", err)
	}
	fmt.Println("kept alive with", renewals, "renewals")
	return nil
}

func list(ctx context.Context, registry rosterv1.RegistryClient, id string) error {
	response, err := registry.List(ctx, &rosterv1.ListRequest{Selector: selector()})
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	for _, instance := range response.GetInstances() {
		if instance.GetKey().GetId() == id {
			fmt.Println("listed", len(response.GetInstances()), "at revision", response.GetHeader().GetRevision())
			return nil
		}
	}
	return fmt.Errorf("list at revision %d does not hold %s", response.GetHeader().GetRevision(), id)
}

// await takes changes until one of that kind arrives.
func await(ctx context.Context, changes <-chan *rosterv1.Change, kind rosterv1.Change_Kind) error {
	for {
		select {
		case change, open := <-changes:
			if !open {
				return fmt.Errorf("the watch ended before a %v", kind)
			}
			if change.GetKind() == kind {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("no %v was seen: %w", kind, ctx.Err())
		}
	}
}
