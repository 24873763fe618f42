//! Rules as the kernel reads them: each match loads something into a register and compares it.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NetlinkMessage};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    nftables::{
        Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook as HookAttribute, Immediate,
        InetHookNumber, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage,
        TableAttribute, TableMessage, Verdict, VerdictAttribute,
    },
};

use super::{
    netlink::Step,
    rule::{Action, Chain, Hook, LOOPBACK, Match, Rule, Table},
};

/// The messages that put a table in place of the one of its name, if there is one.
pub(super) fn replace(table: &Table) -> Vec<Step> {
    let mut steps = remove(table);
    steps.push(new_table(table));
    for chain in &table.chains {
        steps.push(new_chain(table, chain));
        steps.extend(chain.rules.iter().map(|rule| new_rule(table, chain, rule)));
    }
    steps
}

/// The messages that take a table away, whether it is there or not.
pub(super) fn remove(table: &Table) -> Vec<Step> {
    let delete = NfTablesMessage::DeleteTable(TableMessage {
        attributes: named(table),
    });
    vec![new_table(table), step("remove the table", delete, 0)]
}

fn new_table(table: &Table) -> Step {
    let new = NfTablesMessage::NewTable(TableMessage {
        attributes: named(table),
    });
    step("make the table", new, NLM_F_CREATE)
}

fn named(table: &Table) -> Vec<TableAttribute> {
    vec![TableAttribute::Name(table.name.to_owned())]
}

fn new_chain(table: &Table, chain: &Chain) -> Step {
    let hook = match chain.hook {
        Hook::Leaving | Hook::Output => InetHookNumber::LocalOut,
        Hook::Prerouting => InetHookNumber::PreRouting,
    };
    let new = NfTablesMessage::NewChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table(table.name.to_owned()),
            ChainAttribute::Name(chain.name.to_owned()),
            ChainAttribute::Hook(vec![
                HookAttribute::Number(hook.into()),
                HookAttribute::Priority(chain.hook.priority().cast_unsigned()),
            ]),
            ChainAttribute::Policy(ACCEPT),
            ChainAttribute::Type(chain.hook.kind().to_owned()),
        ],
    });
    step(format!("make the chain {}", chain.name), new, NLM_F_CREATE)
}

fn new_rule(table: &Table, chain: &Chain, rule: &Rule) -> Step {
    let mut expressions: Vec<Expressions> = rule.matches.iter().flat_map(tests).collect();
    expressions.extend(action(rule.action));
    let new = NfTablesMessage::NewRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.name.to_owned()),
            RuleAttribute::Chain(chain.name.to_owned()),
            RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
        ],
    });
    step(
        format!("add \"{rule}\" to the chain {}", chain.name),
        new,
        NLM_F_CREATE | NLM_F_APPEND,
    )
}

fn step(what: impl Into<String>, message: NfTablesMessage, flags: u16) -> Step {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
    message.header.flags |= flags;
    Step {
        what: what.into(),
        message,
    }
}

// What linux/netfilter.h, linux/netfilter/nf_tables.h and linux/rtnetlink.h call NF_ACCEPT, …
const ACCEPT: u32 = 1;
const IPPROTO_TCP: u8 = 6;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const RTN_LOCAL: u32 = 2;

/// The register that everything is loaded into.
const REGISTER: Register = Register::Reg1;

fn tests(each: &Match) -> Vec<Expressions> {
    let is = |value: &[u8]| compare(Operator::Equal, value);
    match each {
        Match::Tcp => vec![meta(MetaKey::L4Proto), is(&[IPPROTO_TCP])],
        Match::UnderWay => {
            const SYN: u8 = 0x02;
            const FIN_SYN_RST_ACK: u8 = 0x17;
            let mut all = tests(&Match::Tcp);
            all.extend([
                load(TRANSPORT_HEADER, 13, 1),
                mask(&[FIN_SYN_RST_ACK]),
                compare(Operator::NotEqual, &[SYN]),
            ]);
            all
        }
        Match::LeavesByLoopback => vec![meta(MetaKey::Oif), is(&LOOPBACK.to_ne_bytes())],
        Match::CameByLoopback => vec![meta(MetaKey::Iif), is(&LOOPBACK.to_ne_bytes())],
        Match::Priority(priority) => vec![meta(MetaKey::Priority), is(&priority.to_ne_bytes())],
        Match::User(uid) => vec![meta(MetaKey::SocketUserId), is(&uid.to_ne_bytes())],
        Match::To(network) => {
            let bytes = |address| match address {
                std::net::IpAddr::V4(address) => address.octets().to_vec(),
                std::net::IpAddr::V6(address) => address.octets().to_vec(),
            };
            let (protocol, offset) = if network.addr().is_ipv4() {
                (NFPROTO_IPV4, 16)
            } else {
                (NFPROTO_IPV6, 24)
            };
            let address = bytes(network.network());
            vec![
                meta(MetaKey::Nfproto),
                is(&[protocol]),
                load(NETWORK_HEADER, offset, address.len() as u32),
                mask(&bytes(network.netmask())),
                is(&address),
            ]
        }
        Match::Port(port) => {
            let mut all = tests(&Match::Tcp);
            all.extend([load(TRANSPORT_HEADER, 2, 2), is(&port.to_be_bytes())]);
            all
        }
        Match::NotForUs => {
            const RESULT_ADDRTYPE: u32 = 3;
            const DADDR: u32 = 2;
            // NFTA_FIB_DREG, NFTA_FIB_RESULT, NFTA_FIB_FLAGS.
            let fib = other("fib", [(1, u32::from(REGISTER)), (2, RESULT_ADDRTYPE), (3, DADDR)]);
            vec![fib, compare(Operator::NotEqual, &RTN_LOCAL.to_ne_bytes())]
        }
        Match::Listening => {
            const TRANSPARENT: u32 = 0;
            // NFTA_SOCKET_KEY, NFTA_SOCKET_DREG.
            let socket = other("socket", [(1, TRANSPARENT), (2, u32::from(REGISTER))]);
            vec![socket, compare(Operator::LessThanEqual, &[1])]
        }
    }
}

fn action(action: Action) -> Vec<Expressions> {
    match action {
        Action::Pass => vec![Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(
                ACCEPT,
            ))])),
        ])],
        Action::Zone(zone) => {
            const ZONE: u32 = 17;
            const ORIGINAL: u8 = 0;
            // NFTA_CT_KEY, NFTA_CT_DIRECTION, NFTA_CT_SREG.
            let attributes = vec![
                DefaultNla::new(2, ZONE.to_be_bytes().to_vec()),
                DefaultNla::new(3, vec![ORIGINAL]),
                DefaultNla::new(4, u32::from(REGISTER).to_be_bytes().to_vec()),
            ];
            vec![
                Expressions::Immediate(vec![
                    Immediate::DestinationRegister(REGISTER),
                    Immediate::Data(DataAttribute::Value(zone.to_ne_bytes().to_vec())),
                ]),
                Expressions::Other {
                    expression_type: "ct".to_owned(),
                    attributes,
                },
            ]
        }
        Action::Redirect(port) => {
            const PROTO_SPECIFIED: u32 = 2;
            vec![
                Expressions::Immediate(vec![
                    Immediate::DestinationRegister(REGISTER),
                    Immediate::Data(DataAttribute::Value(port.to_be_bytes().to_vec())),
                ]),
                // NFTA_REDIR_REG_PROTO_MIN, NFTA_REDIR_FLAGS.
                other("redir", [(1, u32::from(REGISTER)), (3, PROTO_SPECIFIED)]),
            ]
        }
    }
}

fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(REGISTER)])
}

fn load(base: u32, offset: u32, length: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(REGISTER),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn mask(mask: &[u8]) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(REGISTER),
        Bitwise::DestinationRegister(REGISTER),
        Bitwise::Length(mask.len() as u32),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
    ])
}

fn compare(operator: Operator, value: &[u8]) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(REGISTER),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
}

/// An expression that the crate has no words for.
fn other<const N: usize>(kind: &str, attributes: [(u16, u32); N]) -> Expressions {
    let attributes = attributes.map(|(kind, value)| DefaultNla::new(kind, value.to_be_bytes().to_vec()));
    Expressions::Other {
        expression_type: kind.to_owned(),
        attributes: attributes.into(),
    }
}
