#include "port.h"
#include "protocol.h"

int main(void)
{
    port_init();
    protocol_serve();
}
