//! nginx with the module nchan.

use std::fs;
use std::io;
use std::net::SocketAddr;

use super::{Api, Place, Running, post, redis};
use crate::process::{Process, free_address, is_root, wait_for};

const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub(super) fn start(place: &Place) -> io::Result<Running> {
    let (address, process) = nginx(place, "nginx", None)?;
    Ok(Running { api: Api::Nchan, listen_at: address, publish_at: address, processes: vec![process] })
}

pub(super) fn start_over_redis(place: &Place) -> io::Result<Running> {
    let (address, redis) = redis(place)?;
    let (publish_at, a) = nginx(place, "nginx-a", Some(address))?;
    let (listen_at, b) = nginx(place, "nginx-b", Some(address))?;
    Ok(Running { api: Api::Nchan, listen_at, publish_at, processes: vec![redis, a, b] })
}

fn nginx(place: &Place, name: &str, redis: Option<SocketAddr>) -> io::Result<(SocketAddr, Process)> {
    let (address, folder) = (free_address()?, place.folder.join(name));
    fs::create_dir(&folder)?;
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration(&folder.to_string_lossy(), address, redis))?;
    let (folder, file) = (folder.to_string_lossy(), file.to_string_lossy());
    let command = ["nginx", "-p", &folder, "-c", &file];
    let process = Process::start_as(&[], "TERM", &place.folder, name, &command)?;
    // It answers 503 as long as it has not found its Redis.
    wait_for(address, &post(address, "/publish?id=nobody", "", "x"), "HTTP/1.1 20")?;
    Ok((address, process))
}

/// As many messages are kept for a channel as it takes that none is lost at these rates: of ten, nchan's default, some are.
fn configuration(folder: &str, address: SocketAddr, redis: Option<SocketAddr>) -> String {
    let user = if is_root() { "user root;" } else { "" };
    let upstream = redis
        .map_or(String::new(), |redis| format!("upstream bus {{ nchan_redis_server redis://{redis}; }}"));
    let pass = if redis.is_some() { "nchan_redis_pass bus;" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
        .collect();
    format!(
        "load_module {MODULE};
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 19000; }}
http {{
access_log off;
{temporary}
keepalive_requests 1000000000;
nchan_shared_memory_size 512M;
{upstream}
server {{
listen {address} backlog=4096;
location = /listen {{
nchan_subscriber eventsource;
nchan_channel_id $arg_id;
nchan_subscriber_first_message newest;
{pass}
}}
location = /publish {{
nchan_publisher http;
nchan_channel_id $arg_id;
nchan_message_buffer_length 1000;
{pass}
}}
}}
}}
"
    )
}
