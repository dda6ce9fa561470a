// Package token makes and reads what a device proves its identity with: its
// private key, the JSON Web Token (RFC 7519) that the key signs, and the public
// key or certificate that is uploaded to the platform.
//
// A token is the password of an MQTT CONNECT, so renewing it is reconnecting;
// Signer.Mint makes one per attempt and RenewAt says when the next is due.
package token
