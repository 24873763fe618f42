//! `weft up --spans`: a collector is told of requests.

#[path = "../../proxy/tests/spans/collector.rs"]
mod collector;
mod support;

use std::path::Path;

use collector::Collector;
use support::{Weft, eventually};

#[test]
fn requests_are_told_of_all_of_them_unless_it_is_said() {
    let collector = Collector::new();
    let spans = format!("http://{}", collector.address);
    let mut weft = Weft::up(&[Path::new("examples/hello")], &[8080], &["--echo", "--spans", &spans]);
    for _ in 0..5 {
        assert_eq!(weft.get(8080, "a.example", "/x?y=z").status, 200);
    }
    eventually("the spans are told of", || collector.told().len() == 10);
    for told in collector.told() {
        assert_eq!(told.resource["service.name"], "weft");
        assert_eq!(told.attribute("url.path"), Some("/x"));
        assert_eq!(told.attribute("weft.route"), Some("HTTPRoute/default/hello/0"));
    }
    // What it has not told yet it tells before it ends.
    assert_eq!(weft.get(8080, "a.example", "/").status, 200);
    weft.signal("TERM");
    assert!(weft.wait().success());
    assert_eq!(collector.told().len(), 12);
}
