//! A server of DNS on loopback that says what it is told to say.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, RecordType},
};

#[derive(Clone, Debug)]
enum Said {
    /// These addresses, with their time to live in seconds.
    Addresses(Vec<IpAddr>, u32),
    Code(ResponseCode),
}

#[derive(Default)]
struct Zone {
    said: HashMap<String, Said>,
    asked: HashMap<String, usize>,
}

/// The server. Of a name that it was told nothing of, it says that there is none.
#[derive(Clone)]
pub struct Dns {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl Dns {
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = socket.local_addr().expect("it is bound");
        let zone: Arc<Mutex<Zone>> = Arc::default();
        let known = zone.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                if let Some(answer) = answer(&known, &buffer[..length]) {
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        Self { address, zone }
    }

    /// From now on the name has these addresses, for so many seconds each time.
    pub fn say(&self, name: &str, addresses: &[&str], ttl: u32) {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address"));
        self.tell(name, Said::Addresses(addresses.collect(), ttl));
    }

    /// From now on there is no answer for the name.
    pub fn fail(&self, name: &str) {
        self.tell(name, Said::Code(ResponseCode::ServFail));
    }

    fn tell(&self, name: &str, said: Said) {
        let mut zone = self.zone.lock().expect("nobody panics with it");
        zone.said.insert(name.to_owned(), said);
    }

    /// How often it was asked for a name.
    pub fn asked(&self, name: &str) -> usize {
        let zone = self.zone.lock().expect("nobody panics with it");
        zone.asked.get(name).copied().unwrap_or(0)
    }

    /// The names it was asked for, in order.
    pub fn names(&self) -> Vec<String> {
        let zone = self.zone.lock().expect("nobody panics with it");
        let mut names: Vec<String> = zone.asked.keys().cloned().collect();
        names.sort();
        names
    }
}

fn answer(zone: &Mutex<Zone>, bytes: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(bytes).ok()?;
    let question = query.queries.first()?.clone();
    let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let said = {
        let mut zone = zone.lock().expect("nobody panics with it");
        *zone.asked.entry(name.clone()).or_default() += 1;
        zone.said
            .get(&name)
            .cloned()
            .unwrap_or(Said::Code(ResponseCode::NXDomain))
    };
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    match said {
        Said::Code(code) => answer.metadata.response_code = code,
        Said::Addresses(addresses, ttl) => {
            let records = addresses.into_iter().map(RData::from);
            let wanted = records.filter(|data| data.record_type() == question.query_type());
            let record = |data| Record::from_rdata(question.name().clone(), ttl, data);
            answer.answers.extend(wanted.map(record));
        }
    }
    debug_assert!(matches!(question.query_type(), RecordType::A | RecordType::AAAA));
    answer.queries.push(question);
    answer.to_vec().ok()
}
