#!/bin/bash
# Makes the neighbour what a site has: a proxy that asks for a login, a package mirror behind it, whose certificate is of the site's own
# authority, with a registry of models, and a reverse proxy in front of the gateway. Arguments: user and password of the proxy, the URL of the real
# archive, the hash of the registry's password.
set -euo pipefail
user=$1 password=$2 archive=$3 models=$4
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update >/dev/null
apt-get -qq install --no-install-recommends tinyproxy nginx-light >/dev/null

grep -q mirror.site.test /etc/hosts || echo "127.0.0.1 mirror.site.test" >>/etc/hosts
cat >/etc/tinyproxy/tinyproxy.conf <<CONF
User tinyproxy
Group tinyproxy
Port 3128
Timeout 60
LogFile "/var/log/tinyproxy/tinyproxy.log"
LogLevel Connect
MaxClients 50
Allow 10.78.3.0/25
Allow 127.0.0.1
Allow fd78:3::/64
BasicAuth $user $password
ConnectPort 443
CONF
echo "fleet:$models" >/etc/nginx/models.htpasswd
cat >/etc/nginx/sites-enabled/default <<CONF
server {
    listen 443 ssl;
    server_name mirror.site.test;
    ssl_certificate /etc/nginx/mirror.crt;
    ssl_certificate_key /etc/nginx/mirror.key;
    # Nothing but the two archives is asked of the real mirror; this one holds no images, and says so itself.
    location / {
        return 404;
    }
    # The site's models, for those who log in.
    location /v2/library/ {
        root /srv/registry;
        auth_basic "models";
        auth_basic_user_file /etc/nginx/models.htpasswd;
    }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host \$proxy_host;
    proxy_buffering off;
    location /debian/ {
        proxy_pass $archive/debian/;
    }
    location /debian-security/ {
        proxy_pass $archive/debian-security/;
    }
}
# In front of the gateway: says who asked, as such proxies do.
server {
    listen 8443 ssl;
    ssl_certificate /etc/nginx/mirror.crt;
    ssl_certificate_key /etc/nginx/mirror.key;
    location / {
        proxy_pass https://10.78.3.11;
        proxy_ssl_server_name on;
        proxy_ssl_name llm.demo.internal;
        proxy_set_header Host llm.demo.internal;
        proxy_http_version 1.1;
        proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
    }
}
CONF
systemctl restart tinyproxy nginx
