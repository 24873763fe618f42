// Command cert-manager is cert-manager's controller, with only those of its control loops that sign requests by a ClusterIssuer.
//
// Its own command is in no module that can be had by its path; the loops are, and are all that is different from one issuer to
// another.
package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	"github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
)

// As many as in its own command.
const workers = 5

func main() {
	approves := flag.Bool("approve", true, "approve every request, as cert-manager does unless it is told to leave that to somebody else")
	namespace := flag.String("cluster-resource-namespace", "cert-manager", "where the Secrets of ClusterIssuers are")
	flag.Parse()
	logf.InitLogs()
	defer logf.FlushLogs()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx = logf.NewContext(ctx, logf.Log, "controller")
	if err := run(ctx, *approves, *namespace); err != nil {
		logf.Log.Error(err, "cert-manager has ended")
		logf.FlushLogs()
		os.Exit(1)
	}
}

func run(ctx context.Context, approves bool, namespace string) error {
	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		KubernetesAPIQPS:   20,
		KubernetesAPIBurst: 50,
		IssuerOptions:      controller.IssuerOptions{ClusterResourceNamespace: namespace},
	})
	if err != nil {
		return err
	}
	base, err := factory.Build()
	if err != nil {
		return err
	}
	loops := []string{clusterissuers.ControllerName, ca.CRControllerName, selfsigned.CRControllerName}
	if approves {
		loops = append(loops, approver.ControllerName)
	}
	var running sync.WaitGroup
	for _, name := range loops {
		loop, err := controller.Known()[name](factory)
		if err != nil {
			return err
		}
		running.Go(func() {
			if err := loop.Run(workers, ctx); err != nil {
				logf.Log.Error(err, "a control loop has ended", "loop", name)
				os.Exit(1)
			}
		})
	}
	base.SharedInformerFactory.Start(ctx.Done())
	base.KubeSharedInformerFactory.Start(ctx.Done())
	running.Wait()
	return nil
}
