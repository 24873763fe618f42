//! Who is asked for the addresses of a name.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{op::ResponseCode, rr::Name},
};

use super::{Family, NamesOptions};

/// How long one server may take for an answer, and how often each is asked.
const PATIENCE: (Duration, usize) = (Duration::from_secs(2), 2);

/// What there is to a name.
pub(super) struct Answer {
    pub(super) addresses: Vec<IpAddr>,
    /// How long it holds.
    pub(super) ttl: Duration,
}

/// DNS, and the file of hosts.
pub(super) struct Dns {
    options: NamesOptions,
    /// Made with the first question, and made anew after there was no answer: the system may ask others by now.
    resolver: Mutex<Option<TokioResolver>>,
}

impl Dns {
    pub(super) fn new(options: &NamesOptions) -> Self {
        Self {
            options: options.clone(),
            resolver: Mutex::default(),
        }
    }

    /// Asks for the addresses of a name, which is whole: no search domain is tried. Says in words why there is no answer.
    pub(super) async fn lookup(&self, hostname: &str) -> Result<Answer, String> {
        let mut name = Name::from_ascii(hostname).map_err(|error| error.to_string())?;
        name.set_fqdn(true);
        let resolver = self
            .resolver()
            .map_err(|error| format!("whom to ask cannot be read: {error}"))?;
        let found = match resolver.lookup_ip(name).await {
            Ok(found) => found,
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                return Err(match nothing.response_code {
                    ResponseCode::NXDomain => "there is no such name (NXDOMAIN)".to_owned(),
                    _ => "the name has no address".to_owned(),
                });
            }
            Err(error) => {
                *self.resolver.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return Err(error.to_string());
            }
        };
        let addresses: Vec<IpAddr> = found.iter().collect();
        if addresses.is_empty() {
            return Err("the name has no address".to_owned());
        }
        Ok(Answer {
            addresses,
            ttl: found.valid_until().saturating_duration_since(Instant::now()),
        })
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*resolver {
            return Ok(known.clone());
        }
        let mut builder = if self.options.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.options.servers.iter().map(server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        configure(builder.options_mut(), &self.options);
        let made = builder.build()?;
        *resolver = Some(made.clone());
        Ok(made)
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// What is asked for is told from here when it is to be asked for again: nothing is kept longer there.
fn configure(resolver: &mut ResolverOpts, options: &NamesOptions) {
    let (least, most) = options.ttl;
    resolver.ip_strategy = match options.family {
        Family::V4 => LookupIpStrategy::Ipv4thenIpv6,
        Family::V6 => LookupIpStrategy::Ipv6thenIpv4,
    };
    resolver.cache_size = 0;
    resolver.positive_min_ttl = Some(least);
    resolver.positive_max_ttl = Some(most);
    resolver.negative_max_ttl = Some(Duration::ZERO);
    (resolver.timeout, resolver.attempts) = PATIENCE;
}
