/* A Modbus RTU slave made of libmodbus, for the tests: it serves one terminal
 * until it is killed. Arguments: the terminal, the slave's address. */
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, modbus_strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: slave TERMINAL ADDRESS\n");
		return 2;
	}
	modbus_t *ctx = modbus_new_rtu(argv[1], 115200, 'N', 8, 1);
	modbus_mapping_t *map = modbus_mapping_new(64, 32, 64, 32);
	if (ctx == NULL || map == NULL)
		return fail("new");
	if (modbus_set_slave(ctx, atoi(argv[2])) == -1)
		return fail("set slave");

	map->tab_bits[3] = 1;
	map->tab_bits[10] = 1;
	map->tab_input_bits[0] = 1;
	map->tab_input_bits[9] = 1;

	map->tab_input_registers[0] = 2305;
	map->tab_input_registers[1] = (uint16_t)-5;
	MODBUS_SET_INT32_TO_INT16(map->tab_input_registers, 2, -123456789);
	MODBUS_SET_INT64_TO_INT16(map->tab_input_registers, 4, INT64_C(-1234567890123456789));
	modbus_set_float(230.1f, map->tab_input_registers + 8); /* low word first */
	map->tab_input_registers[10] = 0x4F4B; /* "OK" */

	if (modbus_connect(ctx) == -1)
		return fail("connect");
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		uint8_t request[MODBUS_RTU_MAX_ADU_LENGTH];
		int n = modbus_receive(ctx, request);
		if (n == -1) {
			if (errno == EIO || errno == EBADF)
				return 0; /* the terminal is gone */
			continue; /* a frame that is not right */
		}
		if (n > 0 && modbus_reply(ctx, request, n, map) == -1)
			return fail("reply");
	}
}
