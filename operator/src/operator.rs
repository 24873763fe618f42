//! Puts the parts together and runs them until the process is told to end.

use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::{
    api::admissionregistration::v1::MutatingWebhookConfiguration,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use weft_discovery::{Publisher, Server};
use weft_process::listen;

use crate::{
    admin,
    args::Args,
    certificates::{Certificates, SERVER_NAME},
    controller::{Controller, Parts},
    identity,
    infrastructure::input::Settings,
    injection::{self, Bundle, Webhook},
    lease::Keeper,
    metrics::Metrics,
    peers,
    seen::{Gather, Sightings, Workloads},
    tokens::Tokens,
    view::{Bundles, View},
    watch as watches, workloads,
    world::{Myself, World},
};

/// News that wait. What is full makes watches wait, and the API server keeps what they have not read.
const NEWS: usize = 1024;

/// Runs the operator.
///
/// # Errors
/// There is no cluster to speak to, or an address of its own cannot be bound.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::try_default()
        .await
        .context("there is no way to the API server")?;
    let metrics = Metrics::new();
    let sidecars = Arc::new(args.injection()?);
    let (namespace, identity) = (args.namespace(), args.identity());
    let (ready, is_ready) = watch::channel(false);
    let (ask, asked) = mpsc::channel(8);
    let shown = admin::Shown {
        metrics: metrics.clone(),
        ready: is_ready.clone(),
        ask,
    };
    let admin = admin::start(args.admin, shown).await;
    let admin = admin.with_context(|| format!("the admin address {} cannot be bound", args.admin))?;
    let discovery = listen::bind(args.discovery).await;
    let discovery = discovery.with_context(|| format!("the discovery address {} cannot be bound", args.discovery))?;
    tracing::info!(%admin, discovery = %args.discovery, namespace, identity, version = env!("CARGO_PKG_VERSION"), "the operator starts");

    let (stop, stopped) = watch::channel(false);
    let (keeper, claim) = Keeper::new(client.clone(), &namespace, &identity);
    let keeper = tokio::spawn(keeper.run(stopped.clone()));
    let (certificates, shown, roots) = Certificates::new(client.clone(), &namespace, &args.host(), claim.clone());
    let certificates = tokio::spawn(certificates.run());
    let service = (namespace.clone(), args.service());
    if let Some(name) = &args.webhook_configuration {
        let (claim, roots) = (claim.clone(), roots.clone());
        let bundle = Bundle::<MutatingWebhookConfiguration>::new(client.clone(), name, service.clone(), claim, roots);
        tokio::spawn(bundle.run());
    }
    if args.convert_smi {
        for name in injection::definitions() {
            let (claim, roots) = (claim.clone(), roots.clone());
            let bundle = Bundle::<CustomResourceDefinition>::new(client.clone(), &name, service.clone(), claim, roots);
            tokio::spawn(bundle.run());
        }
    }
    // Where there is no configuration nobody asks.
    let webhook = if args.webhook_configuration.is_some() || args.convert_smi {
        let listener = listen::bind(args.webhook).await;
        Some(listener.with_context(|| format!("the address {} of the webhook cannot be bound", args.webhook))?)
    } else {
        None
    };
    let bundles = Bundles {
        client: client.clone(),
        namespace: namespace.clone(),
        claim: claim.clone(),
        roots: roots.clone(),
    };
    tokio::spawn(bundles.run());
    let view_listener = listen::bind(args.view).await;
    let view_listener =
        view_listener.with_context(|| format!("the address {} of the API cannot be bound", args.view))?;
    let tokens = Arc::new(Tokens::new(client.clone(), metrics.clone()));
    let settings = args.identity_settings();
    let (identities, keeper_of_trust) =
        identity::start(&client, &namespace, settings, tokens.clone(), claim.clone(), &metrics);
    let trust = tokio::spawn(keeper_of_trust);

    let publisher = Publisher::new();
    let (sender, news) = mpsc::channel(NEWS);
    watches::start(&client, &metrics, &sender);
    drop(sender);
    let (told, mut workloads_known) = watch::channel(false);
    let known = Workloads::default();
    tokio::spawn(workloads::tell(
        client.clone(),
        publisher.clone(),
        metrics.clone(),
        args.default_action,
        known.clone(),
        told,
    ));
    let sightings = Sightings::new(known);
    let world = World::new(
        &args.controller_name,
        Myself {
            namespace,
            service: args.service(),
            identity: identity.clone(),
        },
        publisher.clone(),
        metrics.clone(),
    );
    let webhook = webhook.map(|listener| {
        let webhook = Webhook {
            settings: sidecars,
            meshed: world.meshed(),
            client: client.clone(),
            metrics: metrics.clone(),
        };
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        tokio::spawn(webhook.listen(listener, Arc::new(tls), stopped.clone()))
    });
    let view = View {
        gather: Gather {
            sightings: sightings.clone(),
            others: world.others(),
            port: args.view.port(),
            shown: shown.clone(),
            roots: roots.clone(),
        },
        client: client.clone(),
        trust_domain: args.trust_domain.clone(),
        shown: shown.clone(),
    };
    let view = tokio::spawn(view.listen(view_listener, stopped.clone()));
    let (sender, reports) = watch::channel(Vec::new());
    tokio::spawn(peers::ask(world.others(), args.admin.port(), claim.clone(), sender));
    let reporter = Reporter {
        controller: args.controller_name.clone(),
        instance: Some(identity),
    };
    let controller = Controller::new(Parts {
        client: client.clone(),
        recorder: Recorder::new(client.clone(), reporter),
        controller_name: args.controller_name.clone(),
        settings: Settings {
            image: args.gateway_image.clone(),
            pull_policy: args.gateway_pull_policy.clone(),
            operator: args.advertised(),
            server_name: SERVER_NAME.to_owned(),
            spans: args.spans(),
        },
        world,
        news,
        replicas: publisher.replicas(),
        refused: publisher.refused_by_sidecars(),
        sidecars: publisher.sidecars(),
        claim,
        roots,
        reports,
        asked,
        ready,
        metrics,
    });
    let controller = tokio::spawn(controller.run(stopped.clone()));

    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(shown);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let server = Server::new(publisher, tokens)
        .with_identities(Arc::new(identities))
        .with_reports(sightings);
    let mut is_ready = is_ready;
    let serving = async {
        // Before everything is known there is nothing true to be told. Connections wait in the socket's queue.
        let _ = is_ready.wait_for(|ready| *ready).await;
        // Nor what would have sidecars believe that stages and workloads are gone.
        let _ = workloads_known.wait_for(|known| *known).await;
        server.listen(discovery, Arc::new(tls), stopped.clone()).await
    };

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Each of these runs as long as the process: if one ends, the process does, and is started anew.
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = serving => ended.context("the discovery address can be served no more"),
        ended = controller => ended.context("the controller has failed"),
        ended = certificates => ended.context("the keeping of certificates has failed"),
        ended = trust => ended.context("the keeping of trust has failed"),
    };
    tracing::info!("the operator ends; data planes go on with what they have");
    stop.send_replace(true);
    let _ = keeper.await;
    if let Some(webhook) = webhook {
        let _ = webhook.await;
    }
    let _ = view.await;
    result
}
