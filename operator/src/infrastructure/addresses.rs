//! The addresses of a Gateway: which it asks for, whether the cluster can give them, and which it has come to have.

use std::net::IpAddr;

use serde_json::Value;
use weft_crds::{AddressStatus, GatewayAddress};

/// What a Gateway asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whatever there is.
    Any,
    /// This one.
    This(IpAddr),
    /// What no cluster can give, and why.
    Unusable(String),
}

/// What a Gateway asks for. A Service has one address, so only one can be asked for. External addresses of Services are
/// not used: whoever may write a Gateway could take any address of the network by them (CVE-2020-8554).
pub(crate) fn wanted(asked: &[GatewayAddress]) -> Wanted {
    let mut values = Vec::new();
    for address in asked {
        let kind = address.address_type.as_deref().unwrap_or("IPAddress");
        match address.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) if kind == "IPAddress" => match value.parse::<IpAddr>() {
                Ok(value) => values.push(value),
                Err(_) => return Wanted::Unusable(format!("{value:?} is not an IP address")),
            },
            Some(value) => {
                return Wanted::Unusable(format!("the {kind} {value:?} cannot be given: ask for an IPAddress"));
            }
            None if kind == "IPAddress" => {}
            None => return Wanted::Unusable(format!("no {kind} can be given: ask for an IPAddress")),
        }
    }
    match values.as_slice() {
        [] => Wanted::Any,
        [only] => Wanted::This(*only),
        more => {
            let list: Vec<String> = more.iter().map(ToString::to_string).collect();
            Wanted::Unusable(format!("one address can be given, and not {}", list.join(" and ")))
        }
    }
}

/// The addresses that a Service has: those of its load balancer if it is to have one, else its own.
pub(crate) fn of_service(service: &Value) -> Vec<AddressStatus> {
    let address = |kind: &str, value: &str| AddressStatus {
        address_type: kind.to_owned(),
        value: value.to_owned(),
    };
    if service["spec"]["type"] == "LoadBalancer" {
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
        return ingress
            .into_iter()
            .flatten()
            .filter_map(|ingress| match (ingress["ip"].as_str(), ingress["hostname"].as_str()) {
                (Some(ip), _) => Some(address("IPAddress", ip)),
                (None, Some(name)) => Some(address("Hostname", name)),
                (None, None) => None,
            })
            .collect();
    }
    let own = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    own.filter_map(Value::as_str)
        .filter(|own| *own != "None")
        .map(|own| address("IPAddress", own))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(list: Value) -> Wanted {
        wanted(&serde_json::from_value::<Vec<GatewayAddress>>(list).expect("addresses"))
    }

    #[test]
    fn one_address_can_be_asked_for() {
        let address = |text: &str| Wanted::This(text.parse().expect("an address"));
        assert_eq!(asked(json!([])), Wanted::Any);
        assert_eq!(asked(json!([{"type": "IPAddress"}])), Wanted::Any);
        assert_eq!(asked(json!([{"value": "198.19.200.10"}])), address("198.19.200.10"));
        assert_eq!(asked(json!([{"type": "IPAddress", "value": "::1"}])), address("::1"));
        for unusable in [
            json!([{"value": "198.19.200.10"}, {"value": "192.0.2.1"}]),
            json!([{"type": "Hostname", "value": "a.example"}]),
            json!([{"type": "Hostname"}]),
            json!([{"value": "a.example"}]),
        ] {
            assert!(matches!(asked(unusable.clone()), Wanted::Unusable(_)), "{unusable}");
        }
    }

    #[test]
    fn a_load_balancer_that_is_asked_for_is_waited_for() {
        let mut service =
            json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"]}, "status": {"loadBalancer": {}}});
        assert_eq!(of_service(&service), []);
        service["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]);
        let found: Vec<_> = of_service(&service)
            .into_iter()
            .map(|address| (address.address_type, address.value))
            .collect();
        let pair = |kind: &str, value: &str| (kind.to_owned(), value.to_owned());
        assert_eq!(found, [pair("IPAddress", "192.0.2.1"), pair("Hostname", "lb.example")]);
        service["spec"]["type"] = "ClusterIP".into();
        assert_eq!(of_service(&service)[0].value, "10.0.0.1");
        service["spec"]["clusterIPs"] = json!(["None"]);
        assert_eq!(of_service(&service), []);
    }
}
