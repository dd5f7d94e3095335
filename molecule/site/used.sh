#!/bin/sh
# What a host's users did over the years; run once, by prepare.yml.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update >/dev/null
apt-get -qq install --no-install-recommends -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    nginx ufw docker.io docker-cli docker-compose prometheus-node-exporter logrotate cron openssl busybox-static >/dev/null

# The shop's site has a certificate of its own. The distribution's default site was turned off long ago.
mkdir -p /var/log/shop /etc/ssl/shop
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=shop.example.internal \
    -addext subjectAltName=DNS:shop.example.internal -keyout /etc/ssl/shop/shop.key -out /etc/ssl/shop/shop.crt 2>/dev/null
chmod 0640 /etc/ssl/shop/shop.key
rm -f /etc/nginx/sites-enabled/default
ln -s ../sites-available/shop /etc/nginx/sites-enabled/shop
echo "192.0.2.10 warehouse.example.internal" >>/etc/hosts
# The site's DNS knows its mirror, at an address to which only the proxy has a way; here there is no DNS.
echo "192.0.2.20 mirror.site.test" >>/etc/hosts
echo "23 4 * * * /usr/bin/true" | crontab -u debian -

# The administrators' firewall, with rules by command, by file, and for containers.
ufw limit 22/tcp comment "admins, slowly"
ufw allow 80/tcp
ufw allow 443/tcp comment "the shop"
ufw allow from 10.78.3.0/25 to any port 8080 proto tcp comment "the back office"
ufw allow from 10.78.3.0/25 to any port 9100 proto tcp
ufw deny from 10.78.3.66 comment "the scanner"
ufw route allow in on eth0 out on docker0 to any port 80 proto tcp comment "the cart"
sed -i '/^COMMIT/i -A ufw-after-input -p udp --dport 5353 -j ufw-skip-to-policy-input' /etc/ufw/after.rules
ufw --force enable

# A container by Compose, from an image that is only here.
root=$(mktemp -d)
mkdir -p "$root/bin" "$root/www"
cp /bin/busybox "$root/bin/busybox"
tar -C "$root" -c . | docker import - shop/cart:1
rm -r "$root"
systemctl restart docker
docker compose --project-directory /srv/shop up --detach
systemctl enable --now shop-rules.service

# Ollama by its installer, and two models: one by a file, and one of the user's own making on top of it.
useradd -r -s /bin/false -U -m -d /usr/share/ollama ollama
store=/usr/share/ollama/.ollama/models
manifests=$store/manifests/registry.ollama.ai/library
mkdir -p "$store/blobs" "$manifests"
blob() { # a file into the store, by its digest
    digest=$(sha256sum <"$1" | cut -d ' ' -f 1)
    size=$(stat -c %s "$1")
    mv "$1" "$store/blobs/sha256-$digest"
}
model() { # name, tag, weights, system message
    blob "$3"
    weights='{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:'$digest'","size":'$size'}'
    printf '%s' "$4" >/root/layer
    blob /root/layer
    system='{"mediaType":"application/vnd.ollama.image.system","digest":"sha256:'$digest'","size":'$size'}'
    printf '{"model_format":"gguf","model_family":"gemma3","model_families":["gemma3"],"model_type":"268M","file_type":"Q4_K_M"}' >/root/layer
    blob /root/layer
    mkdir -p "$manifests/$1"
    printf '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"sha256:%s","size":%s},"layers":[%s,%s]}' \
        "$digest" "$size" "$weights" "$system" >"$manifests/$1/$2"
}
model gemma3 270m /root/gemma.gguf "You are a clerk."
model shop-search 1 /root/embedding.gguf "You search."
chown -R ollama:ollama /usr/share/ollama/.ollama
systemctl enable --now ollama.service
systemctl enable --now nginx.service
systemctl restart nginx.service
