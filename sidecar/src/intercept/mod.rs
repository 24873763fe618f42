//! Interception: network rules that turn the connections of a pod to its sidecar (docs/decisions/040-interception.md).

mod encode;
mod netlink;
mod rule;

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;

use self::{
    netlink::CommitError,
    rule::{Chain, Hook, Match, Rule, Table},
};
use crate::ports::{ADMIN, OWN, PROBES, Ports};

/// How connections are turned to the sidecar.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The user the sidecar runs as, whose own connections go where they want
    #[arg(long, env = "WEFT_PROXY_UID", default_value_t = 1337, value_name = "UID")]
    proxy_uid: u32,
    #[command(flatten)]
    ports: Ports,
    /// Ports of the application to which connections come directly, separated by commas
    #[arg(long, env = "WEFT_SKIP_INBOUND_PORTS", default_value = "", hide_default_value = true, value_parser = ports, value_name = "PORTS")]
    skip_inbound_ports: List<u16>,
    /// Ports elsewhere to which connections go directly
    #[arg(long, env = "WEFT_SKIP_OUTBOUND_PORTS", default_value = "", hide_default_value = true, value_parser = ports, value_name = "PORTS")]
    skip_outbound_ports: List<u16>,
    /// Addresses elsewhere to which connections go directly, like 10.0.0.0/8,2001:db8::/32
    #[arg(long, env = "WEFT_SKIP_OUTBOUND_CIDRS", default_value = "", hide_default_value = true, value_parser = networks, value_name = "CIDRS")]
    skip_outbound_cidrs: List<IpNet>,
    /// Users whose connections go directly to where they want
    #[arg(long, env = "WEFT_SKIP_UIDS", default_value = "", hide_default_value = true, value_parser = uids, value_name = "UIDS")]
    skip_uids: List<u32>,
    /// Take the rules back
    #[arg(long, conflicts_with = "print")]
    remove: bool,
    /// Print the rules, in the words of nft, and change nothing
    #[arg(long)]
    print: bool,
}

/// Where connections of the sidecar itself are remembered.
const ZONE: u16 = 1;
const OWN_CHAIN: &str = "own";

/// Members of a list that is written with commas.
#[derive(Clone, Debug)]
struct List<T>(Vec<T>);

fn list<T>(text: &str, member: impl Fn(&str) -> Option<T>, what: &str) -> Result<List<T>, String> {
    let members = text.split(',').map(str::trim).filter(|text| !text.is_empty());
    let members = members.map(|text| member(text).ok_or_else(|| format!("{text:?} is not {what}")));
    members.collect::<Result<_, _>>().map(List)
}

fn ports(text: &str) -> Result<List<u16>, String> {
    list(
        text,
        |port| port.parse().ok(),
        "a port: write numbers from 0 to 65535, like 25,587",
    )
}

fn uids(text: &str) -> Result<List<u32>, String> {
    list(text, |uid| uid.parse().ok(), "a user: write numbers, like 0,1000")
}

fn networks(text: &str) -> Result<List<IpNet>, String> {
    let network = |text: &str| match IpNet::from_str(text) {
        Ok(network) => Some(network.trunc()),
        Err(_) => IpAddr::from_str(text).ok().map(IpNet::from),
    };
    list(
        text,
        network,
        "a network: write addresses like 10.0.0.0/8 or 2001:db8::1",
    )
}

/// Puts the rules in place of those that are there, or takes them away.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let table = args.table();
    if args.print {
        print!("{table}");
        return Ok(());
    }
    if args.remove {
        netlink::commit(encode::remove(&table))?;
        tracing::info!("connections are no longer turned to the sidecar");
    } else {
        replace(table)?;
        tracing::info!(
            outbound = args.ports.outbound_port,
            inbound = args.ports.inbound_port,
            "connections are turned to the sidecar"
        );
    }
    Ok(())
}

fn replace(mut table: Table) -> Result<(), CommitError> {
    let error = match netlink::commit(encode::replace(&table)) {
        Err(error @ (CommitError::Unsupported { .. } | CommitError::Refused { .. })) => error,
        other => return other,
    };
    // A kernel can be without zones.
    table.chains.retain(|chain| chain.name != OWN_CHAIN);
    netlink::commit(encode::replace(&table))?;
    tracing::warn!(%error, "connections of the sidecar are not kept apart from those of the application: where they are many, one in some ten thousand may go past the sidecar; the kernel wants CONFIG_NF_CONNTRACK_ZONES");
    Ok(())
}

impl Args {
    fn table(&self) -> Table {
        Table {
            name: "weft",
            chains: vec![own(), self.outbound(), self.inbound()],
        }
    }

    fn outbound(&self) -> Chain {
        // What the pod says to itself is nobody else's business; the proxy's own connections would come back to it.
        let mut rules = vec![
            Rule::pass([Match::LeavesByLoopback]),
            Rule::pass([Match::User(self.proxy_uid)]),
        ];
        rules.extend(self.skip_uids.0.iter().map(|uid| Rule::pass([Match::User(*uid)])));
        rules.push(Rule::pass([Match::UnderWay]));
        rules.extend(self.skip_outbound_cidrs.0.iter().map(|to| Rule::pass([Match::To(*to)])));
        rules.extend(
            self.skip_outbound_ports
                .0
                .iter()
                .map(|port| Rule::pass([Match::Port(*port)])),
        );
        rules.push(Rule::redirect([Match::Tcp], self.ports.outbound_port));
        Chain {
            name: "outbound",
            hook: Hook::Output,
            rules,
        }
    }

    fn inbound(&self) -> Chain {
        let mut rules = vec![
            Rule::pass([Match::CameByLoopback]),
            Rule::pass([Match::UnderWay]),
            // What is only passing through, and what is sent to a loopback address by a neighbour.
            Rule::pass([Match::NotForUs]),
            Rule::pass([Match::To(IpNet::from_str("127.0.0.0/8").expect("a network"))]),
            Rule::pass([Match::To(IpNet::from_str("::1/128").expect("a network"))]),
        ];
        let own = [self.ports.outbound_port, self.ports.inbound_port, PROBES, ADMIN];
        let skipped = own.iter().chain(&self.skip_inbound_ports.0);
        rules.extend(skipped.map(|port| Rule::pass([Match::Port(*port)])));
        // Where nobody listens, the kernel refuses, as it would without a sidecar: probes of a port stay true.
        rules.push(Rule::redirect([Match::Tcp, Match::Listening], self.ports.inbound_port));
        Chain {
            name: "inbound",
            hook: Hook::Prerouting,
            rules,
        }
    }
}

/// The sidecar goes on to where the application was going, from the same address: by ports that the kernel gives to either. What
/// the kernel still remembers of a connection of the one must not be taken for the first of the other's, which would then not be
/// turned, or come back.
fn own() -> Chain {
    Chain {
        name: OWN_CHAIN,
        hook: Hook::Leaving,
        rules: vec![Rule::zone([Match::Priority(OWN)], ZONE)],
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn rules(args: &[&str]) -> String {
        let args = [&["intercept"], args].concat();
        Command::try_parse_from(args)
            .expect("it is consistent")
            .args
            .table()
            .to_string()
    }

    #[test]
    fn the_rules_are_those_of_the_options() {
        let text = rules(&[
            "--proxy-uid=1400",
            "--outbound-port=16001",
            "--inbound-port=16006",
            "--skip-inbound-ports=22, 9100",
            "--skip-outbound-ports=25",
            "--skip-outbound-cidrs=10.1.2.3/8,192.0.2.1,2001:db8::/32",
            "--skip-uids=0",
        ]);
        assert_eq!(
            text,
            "table inet weft {\n\
             \tchain own {\n\
             \t\ttype filter hook output priority -300; policy accept;\n\
             \t\tmeta priority 0:4 ct original zone set 1\n\
             \t}\n\
             \tchain outbound {\n\
             \t\ttype nat hook output priority -100; policy accept;\n\
             \t\toif 1 accept\n\
             \t\tmeta skuid 1400 accept\n\
             \t\tmeta skuid 0 accept\n\
             \t\ttcp flags & (fin | syn | rst | ack) != syn accept\n\
             \t\tip daddr 10.0.0.0/8 accept\n\
             \t\tip daddr 192.0.2.1 accept\n\
             \t\tip6 daddr 2001:db8::/32 accept\n\
             \t\ttcp dport 25 accept\n\
             \t\tmeta l4proto tcp redirect to :16001\n\
             \t}\n\
             \tchain inbound {\n\
             \t\ttype nat hook prerouting priority -100; policy accept;\n\
             \t\tiif 1 accept\n\
             \t\ttcp flags & (fin | syn | rst | ack) != syn accept\n\
             \t\tfib daddr type != local accept\n\
             \t\tip daddr 127.0.0.0/8 accept\n\
             \t\tip6 daddr ::1 accept\n\
             \t\ttcp dport 16001 accept\n\
             \t\ttcp dport 16006 accept\n\
             \t\ttcp dport 15020 accept\n\
             \t\ttcp dport 15021 accept\n\
             \t\ttcp dport 22 accept\n\
             \t\ttcp dport 9100 accept\n\
             \t\tmeta l4proto tcp socket transparent <= 1 redirect to :16006\n\
             \t}\n\
             }\n"
        );
    }

    #[test]
    fn lists_say_what_is_wrong_with_them() {
        assert_eq!(ports("").map(|ports| ports.0), Ok(vec![]));
        assert_eq!(ports("80,,443").map(|ports| ports.0), Ok(vec![80, 443]));
        for (wrong, named) in [
            (ports("80,8x").map(drop), "\"8x\""),
            (ports("65536").map(drop), "\"65536\""),
            (uids("root").map(drop), "\"root\""),
            (networks("10.0.0.0/33").map(drop), "\"10.0.0.0/33\""),
        ] {
            let error = wrong.expect_err(named);
            assert!(error.starts_with(named), "{error}");
        }
    }
}
