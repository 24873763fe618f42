// Package conformance is the official Gateway API suite, as it is, with one thing added: which profiles are run follows from
// what the GatewayClass says it supports, as the features already do.
package conformance

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	// One test alone is no statement about a profile.
	if options.RunTest == "" && len(options.ConformanceProfiles) == 0 {
		options.ConformanceProfiles = profiles(t, options)
	}
	conformance.RunConformanceWithOptions(t, options)
}

// profiles are those of which the GatewayClass claims all that is core.
func profiles(t *testing.T, options suite.ConformanceOptions) []suite.ConformanceProfileName {
	class := gatewayv1.GatewayClass{}
	require.NoError(t, options.Client.Get(t.Context(), types.NamespacedName{Name: options.GatewayClassName}, &class), "no GatewayClass to test")
	claimed := sets.New[features.FeatureName]()
	for _, feature := range class.Status.SupportedFeatures {
		claimed.Insert(features.FeatureName(feature.Name))
	}
	names := []suite.ConformanceProfileName{}
	for _, profile := range []suite.ConformanceProfile{
		suite.GatewayHTTPConformanceProfile,
		suite.GatewayGRPCConformanceProfile,
		suite.GatewayTLSConformanceProfile,
		suite.GatewayTCPConformanceProfile,
		suite.GatewayUDPConformanceProfile,
		suite.MeshHTTPConformanceProfile,
		suite.MeshGRPCConformanceProfile,
	} {
		if claimed.IsSuperset(profile.CoreFeatures) {
			names = append(names, profile.Name)
		}
	}
	require.NotEmpty(t, names, "GatewayClass %s claims no profile: its status.supportedFeatures are %v", class.Name, sets.List(claimed))
	return names
}
