//! Why a response is what it is: one flag and one reason for each error, the same in the access log, in metrics and in tests.

/// How a request ended, if not by the backend's own answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Flag {
    /// The backend answered, or a filter did.
    None,
    /// No route takes the request: 404.
    NoRoute,
    /// The authority belongs to another listener than the connection's SNI: 421.
    Misdirected,
    /// The rule has no backend that exists: 500.
    NoBackend,
    /// The backend's Service has no endpoint: 503.
    NoEndpoint,
    /// No connection to an endpoint could be made: 503.
    ConnectFailed,
    /// The endpoint closed or reset the connection before it answered: 503.
    UpstreamReset,
    /// The endpoint's answer is not valid: 502.
    UpstreamInvalid,
    /// The backend took longer than `timeouts.backendRequest`: 504.
    BackendTimeout,
    /// The request took longer than `timeouts.request`: 504.
    RequestTimeout,
    /// The client went away.
    ClientGone,
    /// The client was too slow to send its request: 408.
    ClientTimeout,
    /// The request is malformed or not allowed; the reason says how: 4xx or 501.
    Refused,
    /// A limit on pending work or connections was reached: 503.
    Overloaded,
    /// The backend broke off in the middle of its answer.
    Truncated,
    /// The request would have been tried again, but too many are: 503.
    RetryBudget,
    /// No TLS with an endpoint: it, or the client's certificate it was shown, is not trusted: 502.
    TlsFailed,
    /// An authorization server said no, and its answer went to the client.
    AuthDenied,
    /// An authorization server did not say whether the request may pass, so it may not: 503.
    AuthFailed,
    /// Nothing moved on a connection whose content nobody looks at.
    Idle,
    /// The name that stands for the backend's endpoints has not been resolved: 503.
    Unresolved,
    /// The name that stands for the backend's endpoints leads only to addresses to which nothing may be sent: 503.
    AddressRefused,
    /// An authorization policy does not let it in, or no policy does; the reason says which: 403.
    PolicyDenied,
}

impl Flag {
    /// How many there are.
    pub const COUNT: usize = 23;

    /// All of them, in order of their number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::None,
        Self::NoRoute,
        Self::Misdirected,
        Self::NoBackend,
        Self::NoEndpoint,
        Self::ConnectFailed,
        Self::UpstreamReset,
        Self::UpstreamInvalid,
        Self::BackendTimeout,
        Self::RequestTimeout,
        Self::ClientGone,
        Self::ClientTimeout,
        Self::Refused,
        Self::Overloaded,
        Self::Truncated,
        Self::RetryBudget,
        Self::TlsFailed,
        Self::AuthDenied,
        Self::AuthFailed,
        Self::Idle,
        Self::Unresolved,
        Self::AddressRefused,
        Self::PolicyDenied,
    ];

    /// The name in logs and metrics; empty for [`Flag::None`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::NoRoute => "no_route",
            Self::Misdirected => "misdirected",
            Self::NoBackend => "no_backend",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::BackendTimeout => "backend_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::ClientGone => "client_gone",
            Self::ClientTimeout => "client_timeout",
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
            Self::Truncated => "truncated",
            Self::RetryBudget => "retry_budget",
            Self::TlsFailed => "tls_failed",
            Self::AuthDenied => "auth_denied",
            Self::AuthFailed => "auth_failed",
            Self::Idle => "idle",
            Self::Unresolved => "unresolved",
            Self::AddressRefused => "address_refused",
            Self::PolicyDenied => "policy_denied",
        }
    }

    /// The status that is answered when nothing has been sent yet.
    pub fn status(self) -> u16 {
        match self {
            Self::None => 200,
            Self::NoRoute => 404,
            Self::Misdirected => 421,
            Self::NoBackend => 500,
            Self::NoEndpoint
            | Self::ConnectFailed
            | Self::UpstreamReset
            | Self::Overloaded
            | Self::RetryBudget
            | Self::AuthFailed
            | Self::Unresolved
            | Self::AddressRefused => 503,
            Self::UpstreamInvalid | Self::Truncated | Self::TlsFailed => 502,
            Self::BackendTimeout | Self::RequestTimeout => 504,
            Self::ClientGone => 499,
            Self::ClientTimeout | Self::Idle => 408,
            Self::Refused => 400,
            Self::AuthDenied | Self::PolicyDenied => 403,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_numbered_in_order_and_named_apart() {
        let mut names = std::collections::HashSet::new();
        for (number, flag) in Flag::ALL.into_iter().enumerate() {
            assert_eq!(flag as usize, number);
            assert!(names.insert(flag.as_str()), "{flag:?}");
        }
    }
}
